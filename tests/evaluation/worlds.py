"""Small splits whose answers can be seen, and the outside judge where it is at hand."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import Split

ROOT = Path(__file__).resolve().parents[2]
JUDGE = ROOT.parent / "shared" / "benchmark" / "protocol.py"
DATA = Path(os.environ.get("LLM_TAIL_DATA", ROOT.parent / "shared" / "data"))


def load_judge():
    """Return the module of the outside judge, or skip the test."""
    if not JUDGE.is_file():
        pytest.skip("the outside judge (shared/benchmark/protocol.py) is not here")
    if not (DATA / "amazon-scientific").is_dir():
        pytest.skip("the data set amazon-scientific is not here; LLM_TAIL_DATA names the folder that holds it")
    spec = importlib.util.spec_from_file_location("protocol", JUDGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def from_judge(theirs) -> Split:
    """Return the judge's split as ours."""
    items, users = IdMap(theirs.item_ids, "item"), IdMap(theirs.user_ids, "user")

    def events(matrix):
        rows, columns = matrix.nonzero()
        return Interactions(users, items, rows, columns)

    return Split(
        train=events(theirs.train),
        validation=events(theirs.val + theirs.cval),
        test=events(theirs.test + theirs.ctest),
        cold_validation=theirs.cold_val,
        cold_test=theirs.cold_test,
        method="judge",
        seed=theirs.seed,
    )


def make_split(train, validation=(), test=(), *, items, cold_validation=(), cold_test=()) -> Split:
    """Return a split of pairs (user_id, item_id)."""
    items = IdMap(items, "item")
    users = IdMap(sorted({user for part in (train, validation, test) for user, _ in part}), "user")

    def events(pairs):
        return Interactions(users, items, users.rows([u for u, _ in pairs]), items.rows([i for _, i in pairs]))

    return Split(
        train=events(train),
        validation=events(validation),
        test=events(test),
        cold_validation=np.isin(items.values, cold_validation),
        cold_test=np.isin(items.values, cold_test),
        method="by hand",
        seed=0,
    )


def random_split(seed: int, n_users: int = 40, n_items: int = 40) -> Split:
    """Return a split where people take at random: 5 cold items a phase, the rest cut 8:1:1."""
    rng = np.random.default_rng(seed)
    users = IdMap([f"u{n:02d}" for n in range(n_users)], "user")
    items = IdMap([f"i{n:02d}" for n in range(n_items)], "item")
    rows, columns = np.nonzero(rng.random((n_users, n_items)) < 0.4)
    part = rng.choice(3, len(rows), p=[0.8, 0.1, 0.1])
    cold = np.zeros((2, n_items), dtype=bool)
    cold[0, :5] = cold[1, 5:10] = True
    part = np.where(cold[0, columns], 1, np.where(cold[1, columns], 2, part))
    train, validation, test = (Interactions(users, items, rows[part == n], columns[part == n]) for n in range(3))
    return Split(train, validation, test, cold[0], cold[1], "random", seed)
