import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tail import config as config_module
from llm_tail.config import LoraConfig, RunConfig, Settings
from llm_tail.errors import ConfigError

TABLES = {
    name: field.annotation
    for name, field in RunConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
}


def write(folder, text):
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[data]\ncatlog = 'x'\n", r"unknown setting 'data\.catlog'; did you mean 'data\.catalog'\?"),
        ("sed = 1\n", "unknown setting 'sed'; did you mean 'seed'"),
        ("[hybird]\n", "unknown setting 'hybird'; did you mean 'hybrid'"),
        ("[lora]\nxyz = 1\n", r"unknown setting 'lora\.xyz'; known: enabled, kind"),
        ("[lora]\nrank = 0\n", r"setting 'lora\.rank' is 0: input should be greater than or equal to 1"),
        ("[lora]\nrank = 'many'\n", r"setting 'lora\.rank' is 'many': input should be a valid integer"),
        ("lora = 3\n", "setting 'lora' is 3"),
        ("[split]\nmethod = 'cold'\n", r"setting 'split\.method' is 'cold': input should be 'cold-items'"),
        ("[evaluation]\nk = []\n", r"setting 'evaluation\.k' is \[\]"),
        ("[evaluation]\nk = [20, 0]\n", r"setting 'evaluation\.k\.1' is 0"),
        (
            "seed = -1\n[lora]\nrnk = 1\n",
            r"setting 'seed' is -1.*unknown setting 'lora\.rnk'; did you mean 'lora\.rank'",
        ),
        ("seed = \n", "is no valid TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_path(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        RunConfig.load(write(tmp_path, text))
    assert "run.toml" in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_a_wrong_setting_in_code_is_named_too():
    with pytest.raises(ConfigError, match="unknown setting 'rnk'; did you mean 'rank'"):
        LoraConfig(rnk=3)
    with pytest.raises(ConfigError, match=r"did you mean 'lora\.rank'"):
        RunConfig(lora={"rnk": 3})
    with pytest.raises(ConfigError, match="setting 'rank' is 0"):
        LoraConfig().replace(rank=0)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"no config file at .*nowhere\.toml"):
        RunConfig.load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        RunConfig.load(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no valid TOML"):
        RunConfig.load(tmp_path / "x.toml")


def test_paths_are_relative_to_the_file(tmp_path):
    text = (
        "folder = '../runs/x'\n[data]\ncatalog = 'items.csv'\ninteractions = 'hf:me/set'\n[encoder]\nname = './model'\n"
    )
    (tmp_path / "configs").mkdir()
    loaded = RunConfig.load(write(tmp_path / "configs", text))
    assert loaded.folder == str(tmp_path / "runs" / "x")
    assert loaded.data.catalog == str(tmp_path / "configs" / "items.csv")
    assert loaded.data.interactions == "hf:me/set"
    assert loaded.data.test == ""
    assert loaded.encoder.name == str(tmp_path / "configs" / "model")
    assert RunConfig.load(write(tmp_path, "")).encoder.name == config_module.DEFAULT_ENCODER


def test_overrides_win(tmp_path):
    path = write(tmp_path, "[lora]\nrank = 4\n")
    overrides = ["lora.rank=8", "seed = 3", "split.method=random", "graph.relations=['brand']", "lora.enabled=true"]
    loaded = RunConfig.load(path, overrides)
    assert (loaded.lora.rank, loaded.seed, loaded.split.method, loaded.lora.enabled) == (8, 3, "random", True)
    assert loaded.graph.relations == ["brand"]
    with pytest.raises(ConfigError, match=r"--set 'lora': expected table\.key=value"):
        RunConfig.load(path, ["lora"])
    with pytest.raises(ConfigError, match="--set '=3': expected"):
        RunConfig.load(path, ["=3"])
    with pytest.raises(ConfigError, match="'seed' is no table"):
        RunConfig.load(path, ["seed=1", "seed.x=3"])
    with pytest.raises(ConfigError, match=r"did you mean 'lora\.rank'"):
        RunConfig.load(path, ["lora.rnk=3"])


def test_settings_do_not_change():
    settings_ = RunConfig()
    with pytest.raises(ValueError, match="frozen"):
        settings_.seed = 3
    assert settings_.replace(seed=3).seed == 3
    assert settings_.seed == 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rank=st.integers(1, 512),
    rate=st.floats(1e-8, 1.0),
    relations=st.lists(st.text(max_size=9).filter(lambda x: "\x00" not in x), max_size=3),
    columns=st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), max_size=3),
    positive=st.one_of(st.none(), st.floats(-10, 10)),
)
def test_toml_comes_back_as_the_same_settings(seed, rank, rate, relations, columns, positive):
    config = RunConfig(
        seed=seed,
        lora={"rank": rank, "learning_rate": rate},
        graph={"relations": relations},
        data={"item_columns": columns, "positive": positive},
    )
    assert RunConfig(**tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize("name", [*TABLES, ""])
def test_every_setting_has_one_sentence_and_every_table_a_docstring(name):
    table = TABLES.get(name, RunConfig)
    assert table.__doc__
    if name:
        assert table.__doc__.startswith(f"``[{name}]``: ")
    for key, field in table.model_fields.items():
        if key not in TABLES or name:
            assert field.description, key
            assert field.description.endswith("."), key


def test_small_numbers_are_numbers(tmp_path):
    assert RunConfig.load(write(tmp_path, "[lora]\nlearning_rate = 1e-4\n")).lora.learning_rate == 1e-4


def test_training_can_stop_early_by_the_defaults():
    lora = LoraConfig()
    assert lora.patience + 1 < lora.validations, "the first one is always a gain, the last one is the end"
