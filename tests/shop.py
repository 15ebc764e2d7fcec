"""A small shop for tests: real words, four shelves, customers who keep to one of them."""

import pandas as pd

SHELVES = {
    "kitchen": ["frying pan", "bread knife", "rolling pin", "salad bowl", "pepper mill", "soup ladle", "cake tin"],
    "garden": ["rose seeds", "garden hose", "pruning shears", "lawn rake", "flower pot", "compost bin", "tulip bulbs"],
    "astronomy": ["star atlas", "telescope", "moon map", "planet poster", "eyepiece lens", "sky guide", "tripod mount"],
    "music": ["violin bow", "guitar strings", "drum sticks", "piano stool", "flute case", "metronome", "sheet music"],
}
BRANDS = ["Northwind", "Tailor & Sons", "Halcyon"]


def items():
    rows = []
    for shelf, names in SHELVES.items():
        for n, name in enumerate(names):
            words = f"A {name} for everyone who loves {shelf}."
            rows.append((f"{shelf[0]}{n}", name.capitalize(), words, shelf, BRANDS[n % 3]))
    return pd.DataFrame(rows, columns=["item_id", "title", "description", "category", "brand"])


def events(n_users=48, per_user=5):
    """Customer n keeps to shelf n % 4 and takes a run of its articles; every fifth one strays once."""
    shelves, rows = list(SHELVES), []
    for n in range(n_users):
        shelf = shelves[n % 4]
        rows += [(f"u{n:02}", f"{shelf[0]}{(n // 4 + step) % 7}") for step in range(per_user)]
        if n % 5 == 0:
            rows.append((f"u{n:02}", f"{shelves[(n + 1) % 4][0]}{n % 7}"))
    return pd.DataFrame(rows, columns=["user_id", "item_id"])


def write(folder, *, extra="", item_frame=None, event_frame=None):
    """Write items, interactions and a config file; return the config file."""
    folder.mkdir(parents=True, exist_ok=True)
    (items() if item_frame is None else item_frame).to_csv(folder / "items.csv", index=False)
    (events() if event_frame is None else event_frame).to_csv(folder / "events.csv", index=False)
    path = folder / "shop.toml"
    path.write_text(
        'folder = "run"\n[data]\ncatalog = "items.csv"\ninteractions = "events.csv"\n'
        '[graph]\nrelations = ["category", "brand"]\n[hybrid]\nlearn = false\n'
        '[evaluation]\nk = [5]\nmodels = ["popularity", "ease"]\nn_bootstrap = 20\n' + extra,
        encoding="utf-8",
    )
    return path
