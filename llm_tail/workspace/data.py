"""What a run's ``[data]`` and ``[split]`` settings mean: files in, a catalogue and a split out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from llm_tail.config import DataConfig, RunConfig
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap
from llm_tail.data.interactions import Interactions
from llm_tail.data.splits import Split, split
from llm_tail.errors import ConfigError, DataError

HELD = ("validation", "test")


class Events(NamedTuple):
    """The interactions of a run: all of them or, where files are named for them, without those held out."""

    main: Interactions
    validation: Interactions | None
    test: Interactions | None


def read_catalog(data: DataConfig) -> Catalog:
    """Read the items that ``[data] catalog`` names."""
    if not data.catalog:
        raise ConfigError("[data] catalog is not set; name the file that holds the items")
    return Catalog.read(
        data.catalog, format=data.format, columns=data.item_columns or None, max_bad_share=data.max_bad_share
    )


def read_raw(data: DataConfig, which: str = "interactions") -> Interactions:
    """Read the events of one of the files as they stand there."""
    source = getattr(data, which)
    if not source:
        raise ConfigError(f"[data] {which} is not set; name the file that holds who took what")
    return Interactions.read(
        source, format=data.format, columns=data.interaction_columns or None, max_bad_share=data.max_bad_share
    )


def select_events(data: DataConfig, raw: Interactions, catalog: Catalog) -> Events:
    """Keep the events that count: on items of the catalogue, positive, by people with enough distinct items.

    A person's items are counted over all files together.

    Raises
    ------
    DataError
        If no event is left.
    """
    parts = [raw, *(read_raw(data, which) if getattr(data, which) else None for which in HELD)]
    kept = [None if p is None else p.on(catalog).positive(data.positive) for p in parts]
    pairs = pd.concat([p.to_frame()[["user_id", "item_id"]] for p in kept if p is not None]).drop_duplicates()
    n_items = pairs["user_id"].value_counts()
    enough = n_items.index[n_items >= data.min_user_events]
    main, validation, test = (None if p is None else _of_users(p, enough) for p in kept)
    if main is None or len(main) == 0:
        raise DataError(
            f"none of the {len(raw):,} interactions is left after positive={data.positive} and "
            f"min_user_events={data.min_user_events}; expected at least one, lower these settings"
        )
    return Events(main, validation, test)


def make_split(config: RunConfig, events: Events, catalog: Catalog) -> Split:
    """Cut the events as ``[split]`` says, or take the cut that the files of ``[data]`` make."""
    if events.validation is not None or events.test is not None:
        return Split.from_parts(events.main, events.validation, events.test, catalog=catalog)
    return split(events.main, catalog, config.split, config.seed)


def _of_users(events: Interactions, wanted: pd.Index) -> Interactions:
    """Return the events of these people, and no people without events."""
    n_events = np.bincount(events.user_rows, minlength=len(events.users))
    keep = pd.Index(events.users.values).isin(wanted) & (n_events > 0)
    if keep.all():
        return events
    part = events.where(keep[events.user_rows])
    return Interactions(
        IdMap(events.users.values[keep], "user"),
        events.items,
        (np.cumsum(keep) - 1)[part.user_rows],
        part.item_rows,
        weights=part.weights,
        times=part.times,
        positions=part.positions,
        bad_rows=events.bad_rows,
    )
