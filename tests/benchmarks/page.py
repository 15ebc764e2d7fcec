"""How soon the page shows something: many made items, a stand-in for the service, a real headless Chromium.

    python -m tests.benchmarks.page --items 60000 --out shots

The stand-in answers with the models of `llm_tail.service.answers` and costs next to nothing, so what is measured is the
page: the time from the start of the navigation until the start view, the map's points and an item are on the screen.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import statistics
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from llm_tail.service import answers as a
from tests.service.browser import chromium

PAGE = Path(a.__file__).parent / "page"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
SHELVES = ["gardens", "stars", "kitchens", "rivers", "clocks", "letters", "maps", "birds", "bridges", "music", "salt"]
FORMS = ["A history of", "Notes on", "The secret of", "Walking among", "A dictionary of", "How to mend", "Songs for"]
SEGMENTS = ["head", "tail", "cold"]


class Made:
    """A catalogue that never was: clusters on a map, a title for every item."""

    def __init__(self, n: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.n = n
        self.shelf = rng.choice(len(SHELVES), n, p=rng.dirichlet(np.full(len(SHELVES), 4.0)))
        middles = rng.uniform(-10, 10, (len(SHELVES), 2))
        arms = middles[self.shelf] + rng.normal(0, 1, (n, 2)) * rng.uniform(0.4, 1.9, (len(SHELVES), 2))[self.shelf]
        self.places = arms + 0.4 * np.sin(arms[:, ::-1] * 2)
        self.segment = rng.choice(3, n, p=[0.16, 0.64, 0.2])
        self.rng = rng

    def title(self, row: int) -> str:
        return f"{FORMS[row % 7]} {SHELVES[self.shelf[row]]}, part {row}"

    def shown(self, row: int, score: float) -> a.ShownItem:
        segment = SEGMENTS[self.segment[row]]
        return a.ShownItem(
            item_id=f"i{row}", title=self.title(row), score=score, segment=segment, why=f"both speak of {row % 90}"
        )

    def near(self, row: int, k: int, shift: int = 0) -> list[a.ShownItem]:
        rows = np.flatnonzero(self.shelf == self.shelf[row])
        picked = rows[(np.arange(1, k + 1) * 37 + row + shift) % len(rows)]
        return [self.shown(int(one), 0.93 - 0.04 * i) for i, one in enumerate(picked)]


def column(values: np.ndarray, names: list[str] | None = None) -> a.Column:
    """Pack numbers as the service does: places as 16 bits, codes as they are."""
    low, high = 0.0, 0.0
    if names is None:
        low, high = float(values.min()), float(values.max())
        values = np.round((values - low) / (high - low) * 65535)
    dtype = "uint16" if names is None or len(names) > 9 else "uint8"
    data = base64.b64encode(values.astype(dtype).tobytes()).decode()
    return a.Column(dtype=dtype, data=data, low=low, high=high, names=names or [])


def routes(made: Made) -> Callable[[list[str], dict[str, str]], a.Answer]:
    """Return what answers a path and its query."""
    n_of = {name: int((made.segment == code).sum()) for code, name in enumerate(SEGMENTS)}
    share = a.Shares(**{name: n / made.n for name, n in n_of.items()})
    the_map = a.MapAnswer(
        n_items=made.n,
        x=column(made.places[:, 0]),
        y=column(made.places[:, 1]),
        segment=column(made.segment, SEGMENTS),
        community=column(made.shelf, SHELVES),
        kind="made",
    )
    the_info = a.InfoAnswer(
        name="A made catalogue", version="0", n_items=made.n, n_people=9000, n_upserted=0, n_feedback=0,
        models=["hybrid", "ease", "popularity"], encoders=["run", "base"], encoder="all-MiniLM-L6-v2", runtime="torch",
        dim=384, segments=n_of, relations=["similar", "author", "subjects", "taken_together"],
        hows=["vectors", "words", "both"], communities=len(SHELVES), max_k=200, loaded="2026-01-01T00:00:00Z",
        columns=[
            a.ColumnInfo(name="author", kind="text", values=["Anne Ware", "Jo Lin"]),
            a.ColumnInfo(name="price", kind="number", low=1.0, high=99.0),
        ],
    )  # fmt: skip

    def explain(row: int) -> a.ExplainAnswer:
        near = made.near(row, 9)
        return a.ExplainAnswer(
            item_id=f"i{row}", title=made.title(row), user="reader-0075", score=1.4,
            own_share=0.12, borrowed_share=0.63, text_share=0.25,
            lenders=[
                a.Lender(item_id=one.item_id, title=one.title, share=0.42 / (i + 1)) for i, one in enumerate(near[:4])
            ],
            because=[a.Reason(item_id=one.item_id, title=one.title, score=0.3) for one in near[4:7]],
            readers=[a.Reader(user=f"reader-00{n}", score=0.5) for n in (75, 31, 12)],
        )  # fmt: skip

    def graph(row: int) -> a.GraphAnswer:
        rows = [row, *(int(one.item_id[1:]) for one in made.near(row, 26))]
        rows = list(dict.fromkeys(rows))
        nodes = [
            a.GraphNode(
                item_id=f"i{one}", title=made.title(one), segment=SEGMENTS[made.segment[one]],
                hops=0 if i == 0 else 1 if i < 11 else 2, weight=1 / (1 + 0.1 * i),
            )
            for i, one in enumerate(rows)
        ]  # fmt: skip
        ties = [(0 if i < 11 else 1 + (i * 7) % 10, i) for i in range(1, len(rows))] + [(1, 4), (2, 6), (0, 3), (0, 5)]
        relations = the_info.relations
        edges = [
            a.GraphEdge(
                source=nodes[x].item_id,
                target=nodes[y].item_id,
                relation=relations[(x + i) % 4],
                weight=0.4 + 0.05 * (i % 10),
            )
            for i, (x, y) in enumerate(ties)
        ]
        return a.GraphAnswer(item_id=f"i{row}", nodes=nodes, edges=edges)

    def answer(path: list[str], query: dict[str, str]) -> a.Answer:
        k = min(int(query.get("k", 10)), 60)
        match path:
            case ["info"]:
                return the_info
            case ["map"]:
                return the_map
            case ["map", "items"]:
                rows = [int(one) for one in query["rows"].split(",")]
                return a.MapItems(items=[a.MapItem(row=r, item_id=f"i{r}", title=made.title(r)) for r in rows])
            case ["exposure"]:
                at = np.linspace(0, 1, 51)
                curve = [(float(x), float(1 - (1 - x) ** 3)) for x in at]
                shares = a.Shares(head=0.34, tail=0.52, cold=0.14)
                return a.ExposureAnswer(
                    surface="all", n_shown=4210, shares=shares, catalog=share, coverage=0.41, curve=curve, gini=0.5
                )
            case ["search"]:
                return a.SearchAnswer(q=query["q"], how="both", items=made.near(len(query["q"]), k))
            case ["suggest"]:
                items = [
                    a.Suggestion(item_id=one.item_id, title=one.title, segment=one.segment)
                    for one in made.near(len(query["q"]), k)
                ]
                return a.SuggestAnswer(q=query["q"], items=items)
            case ["recommendations"]:
                return a.RecommendAnswer(user=None, model="hybrid", from_popularity=False, items=made.near(3, 12))
            case ["items", item_id]:
                row = int(item_id[1:])
                return a.ItemAnswer(
                    item_id=item_id, title=made.title(row), segment=SEGMENTS[made.segment[row]],
                    description="What is told here was never written. " * 9, n_interactions=row % 40,
                    fields={"author": "Anne Ware", "subjects": ["made things", SHELVES[made.shelf[row]]], "year": 1911},
                )  # fmt: skip
            case ["items", item_id, "explain"]:
                return explain(int(item_id[1:]))
            case ["items", item_id, what]:
                shift = {"similar": 0, "related": 11, "together": 23}[what] + 5 * (query.get("encoder") == "base")
                return a.ItemsAnswer(item_id=item_id, items=made.near(int(item_id[1:]), k, shift))
            case ["graph", item_id]:
                return graph(int(item_id[1:]))
        raise KeyError(path)

    return answer


def serve(made: Made, port: int = 0) -> ThreadingHTTPServer:
    """Start the stand-in on a thread of its own."""
    answer = routes(made)
    packed: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = [unquote(part) for part in url.path.strip("/").split("/")]
            if path == [""] or path[0] == "page":
                file = PAGE / ("index.html" if path == [""] else Path(*path[1:]))
                return self.send(file.read_bytes(), KINDS[file.suffix])
            try:
                if self.path not in packed:
                    told = answer(path, {key: values[0] for key, values in parse_qs(url.query).items()})
                    packed[self.path] = gzip.compress(told.model_dump_json().encode(), 6)
                self.send(packed[self.path], "application/json", packed=True)
            except (KeyError, ValueError, IndexError) as error:
                self.send(json.dumps({"error": str(error), "closest": ["i1", "i2"]}).encode(), "application/json", 404)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def send(self, body: bytes, kind: str, status: int = 200, *, packed: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", "default-src 'self'")
            if packed:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"
MARKED = "name => performance.getEntriesByName(name)[0]?.startTime"
FRAMES = """async () => {
    const canvas = document.querySelector('.canvas canvas');
    const box = canvas.getBoundingClientRect();
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    const send = (name, dx) =>
        canvas.dispatchEvent(new PointerEvent(name, { pointerId: 1, button: 0, clientX: x + dx, clientY: y }));
    canvas.setPointerCapture = () => {};
    const times = [];
    send('pointerdown', 0);
    let before = await new Promise(requestAnimationFrame);
    for (let i = 1; i <= 60; i += 1) {
        send('pointermove', 4 * i);
        const now = await new Promise(requestAnimationFrame);
        times.push(now - before);
        before = now;
    }
    send('pointerup', 240);
    return times;
}"""


def measure(browser: Any, address: str, place: str, mark: str, out: Path | None) -> dict[str, float]:
    """Open the page somewhere in a browser that has seen nothing yet; return milliseconds since the navigation."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.goto(address + place)
    page.wait_for_function(f"() => performance.getEntriesByName('{mark}').length > 0")
    found = {"first paint": page.evaluate(PAINTED), "shown": page.evaluate(MARKED, mark)}
    if mark == "llm-tail-map":
        times = page.evaluate(FRAMES)
        found |= {"frame while moving (median)": statistics.median(times), "frame (worst)": max(times)}
    page.wait_for_timeout(800)
    if out:
        page.screenshot(path=out / f"{mark}.png")
    context.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for screenshots")
    parser.add_argument("--serve", type=int, metavar="PORT", help="do not measure: serve the made items until Ctrl-C")
    wanted = parser.parse_args()
    server = serve(Made(wanted.items), wanted.serve or 0)
    address = f"http://127.0.0.1:{server.server_port}/"
    if wanted.serve:
        print(f"{wanted.items:,} made items at {address}")
        threading.Event().wait()
    urllib.request.urlopen(address + "map").read()  # noqa: S310 - packed once, before the clock runs
    if wanted.out:
        wanted.out.mkdir(parents=True, exist_ok=True)
    places = {"#/": "llm-tail-shown", "#/map": "llm-tail-map", "#/item/i42": "llm-tail-shown"}
    with chromium() as browser:
        for place, mark in places.items():
            runs = [measure(browser, address, place, mark, wanted.out) for _ in range(wanted.repeat)]
            for name in runs[0]:
                values = [run[name] for run in runs]
                print(f"{place:12} {name:28} median {statistics.median(values):7.0f} ms, worst {max(values):7.0f} ms")


if __name__ == "__main__":
    main()
