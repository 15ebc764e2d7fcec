import pickle

import pytest

from llm_tail import errors
from llm_tail.errors import LlmTailError, MissingExtraError, UnknownIdError, closest

FAMILY = {
    "DataError": ValueError,
    "ConfigError": ValueError,
    "UnknownIdError": LookupError,
    "NotFittedError": RuntimeError,
    "StaleArtifactError": RuntimeError,
    "CorruptArtifactError": RuntimeError,
    "MissingExtraError": ImportError,
    "WorkerError": RuntimeError,
    "BackendError": RuntimeError,
    "UnfinishedError": RuntimeError,
}


@pytest.mark.parametrize(("name", "built_in"), FAMILY.items())
def test_every_error_is_ours_and_a_built_in(name, built_in):
    error = getattr(errors, name)
    assert issubclass(error, LlmTailError)
    assert issubclass(error, built_in)
    assert f"{name} " in errors.__doc__
    assert error.__doc__


def test_the_family_has_no_other_member():
    ours = {name for name, x in vars(errors).items() if isinstance(x, type) and issubclass(x, LlmTailError)}
    assert ours == {*FAMILY, "LlmTailError"}


def test_an_unknown_id_names_the_three_closest():
    error = UnknownIdError("item", "book-1", ["book-10", "book-11", "book-12", "book-13", "lamp"])
    assert len(error.closest) == 3
    assert str(error).startswith("no item has the id 'book-1'; the closest are: book-1")
    assert len(UnknownIdError("item", "?", ["a1", "b2", "c3", "d4"]).closest) == 3  # they show what ids look like
    assert len(UnknownIdError("item", "?", [f"item-{n:06d}" for n in range(30_000)]).closest) == 3
    assert str(UnknownIdError("user", "x")) == "no user has the id 'x'"
    assert UnknownIdError("user", "x").closest == []


def test_a_missing_extra_names_the_command():
    assert str(MissingExtraError("implicit", "als")) == "'implicit' is not installed; run: pip install 'llm-tail[als]'"


def test_closest_is_best_first_and_bounded():
    found = closest("emma", ["emmas", "emma", "gemma", "lemma", "ulysses"])
    assert found[0] == "emma"
    assert len(found) == 3
    assert "ulysses" not in found
    assert closest("emma", []) == []
    assert closest("catlog", ["catalog", "test"], 1) == ["catalog"]
    many = [f"item-{n:06d}" for n in range(250_000)]
    assert closest("item-00012x", many)


@pytest.mark.parametrize("error", [UnknownIdError("item", "a", ["ab"]), MissingExtraError("implicit", "als")])
def test_errors_travel_between_processes(error):
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is type(error)
    assert str(again) == str(error)
