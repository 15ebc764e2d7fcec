"""Audit: what is wrong with this data, before an hour is spent on it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llm_tail.data.catalog import Catalog
from llm_tail.data.interactions import Interactions
from llm_tail.data.segments import HEAD_SHARE, Segments
from llm_tail.errors import DataError

if TYPE_CHECKING:
    from rich.console import Group

Severity = Literal["error", "warning", "note"]
TOKENS_PER_WORD = 1.3  # what WordPiece makes of English words, on average
CURVE_AT = (0.01, 0.05, 0.10, 0.20, 0.50)
EXAMPLES = 3
_DAY = 86_400.0
_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Parameters
    ----------
    severity : {"error", "warning", "note"}
        An error makes every later stage useless; a warning makes its result worse; a note is good to know.
    code : str
        A short name that stays the same, such as ``"repeated-text"``.
    message : str
        What was found, with counts, and what to do.
    examples : tuple of str
        At most three.
    """

    severity: Severity
    code: str
    message: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f" (such as {', '.join(self.examples)})" if self.examples else ""
        return f"{self.severity}: {self.message}{shown}"


@dataclass(frozen=True)
class Figures:
    """The numbers behind the findings; shares are in [0, 1].

    Events are distinct (user, item) pairs on items of the catalogue. `top_share` is what the most popular 20 % of the
    items with events have of them, `gini` the Gini coefficient of the events of these items (0: all equally popular),
    and `curve` the share of events on the most popular 1, 5, 10, 20 and 50 % of them.
    """

    n_items: int
    n_users: int
    n_events: int
    density: float
    top_share: float
    gini: float
    curve: tuple[tuple[float, float], ...]
    n_head: int
    n_tail: int
    n_cold: int
    n_empty_texts: int
    n_repeated_texts: int
    missing_title_share: float
    missing_description_share: float
    n_duplicate_events: int
    n_unmatched_events: int
    n_unmatched_items: int
    n_future_times: int
    n_early_times: int
    n_nan_weights: int
    n_low_weights: int
    n_bad_rows: int
    n_cut_texts: int
    token_counts_estimated: bool


@dataclass(frozen=True)
class Audit:
    """Findings, worst first, and figures.

    Parameters
    ----------
    findings : tuple of Finding
        Errors, then warnings, then notes.
    figures : Figures
        The numbers.
    """

    findings: tuple[Finding, ...]
    figures: Figures

    @property
    def ok(self) -> bool:
        """True where no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def of(self, code: str) -> Finding | None:
        """Return the finding with this code, or None where there is none."""
        return next((finding for finding in self.findings if finding.code == code), None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        figures = asdict(self.figures)
        figures["curve"] = [list(point) for point in self.figures.curve]
        findings = [{**asdict(finding), "examples": list(finding.examples)} for finding in self.findings]
        return {"ok": self.ok, "findings": findings, "figures": figures}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Audit:
        """Return the audit that `to_dict` made these values of."""
        findings = tuple(
            Finding(**{**finding, "examples": tuple(finding["examples"])}) for finding in values["findings"]
        )
        curve = tuple((float(share), float(events)) for share, events in values["figures"]["curve"])
        return cls(findings, Figures(**{"n_low_weights": 0, **values["figures"], "curve": curve}))

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "nothing was found that is wrong with this data"

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title="figures", title_justify="left", show_header=False)
        for name, value in _readable(self.figures):
            table.add_row(name, value)
        found = Table(title="findings", title_justify="left", show_header=False)
        for finding in self.findings:
            shown = f"\nsuch as {', '.join(finding.examples)}" if finding.examples else ""
            colour = _COLOURS[finding.severity]
            found.add_row(Text(finding.severity, style=colour), finding.code, Text(finding.message + shown))
        return Group(table, found if self.findings else Text(str(self)))


def audit(
    catalog: Catalog,
    interactions: Interactions,
    *,
    texts: Sequence[str] | None = None,
    max_tokens: int = 128,
    token_counts: NDArray[Any] | None = None,
    now: float | None = None,
) -> Audit:
    """Look for everything in the data that makes a later stage fail or its result poor.

    Parameters
    ----------
    catalog : Catalog
        The items.
    interactions : Interactions
        As they were read, not aligned to the catalogue: ids that match nothing are counted, not refused.
    texts : sequence of str, optional
        What the encoder will read of each item; title and description if not given.
    max_tokens : int
        Where the encoder cuts a text.
    token_counts : array of int, shape (n_items,), optional
        Tokens of each item's text by the real tokenizer; else estimated as 1.3 a word.
    now : float, optional
        Seconds since 1970; what lies more than a day after it is in the future. The clock if not given.

    Returns
    -------
    Audit

    Raises
    ------
    DataError
        If `texts` or `token_counts` has another length than the catalogue.

    Notes
    -----
    Vectorised; O(n_events log n_events) time, a few integers an event of memory.

    Examples
    --------
    >>> catalog = Catalog.from_items([{"item_id": "emma", "title": "Emma"}, {"item_id": "x"}])
    >>> print(audit(catalog, Interactions.from_pairs([("ann", "emma"), ("ann", "emma"), ("bob", "emma")])))
    warning: 1 of 2 items (50.0 %) has neither title nor description and gets no vector; enrich it (such as x)
    note: 1 of 3 interactions (33.3 %) repeats an earlier one; each pair counts once
    note: 2 of 2 people (100.0 %) have fewer than 3 distinct items and are never tested on warm items
    note: 1 of 2 items (50.0 %) has no interaction: cold
    note: 1 of 2 items (50.0 %) has no description; enrichment can write one (such as emma)
    """
    rows = catalog.ids.rows(interactions.items.values)[interactions.item_rows]  # -1 where nothing matches
    on_items = interactions.where(rows >= 0)
    width = np.int64(max(len(catalog), 1))
    pairs = np.unique(on_items.user_rows * width + rows[rows >= 0])
    counts = np.bincount(pairs % width, minlength=len(catalog))
    findings = [
        *_match_findings(catalog, interactions, rows),
        *_bad_row_findings(catalog, interactions),
        *_event_findings(interactions, len(on_items) - len(pairs), time.time() if now is None else now),
        *_people_findings(np.unique(pairs // width, return_counts=True)[1]),
        *_cold_findings(counts),
    ]
    text_figures, text_findings = _texts(catalog, texts, max_tokens, token_counts)
    findings += text_findings
    figures = Figures(
        n_items=len(catalog),
        n_users=len(np.unique(interactions.user_rows)),
        n_events=len(pairs),
        n_duplicate_events=len(on_items) - len(pairs),
        n_unmatched_events=int((rows < 0).sum()),
        n_unmatched_items=len(np.unique(interactions.item_rows[rows < 0])),
        n_bad_rows=sum(x.bad_rows.n_bad for x in (catalog, interactions) if x.bad_rows is not None),
        **_popularity(counts, len(np.unique(pairs // width))),
        **_times(interactions, time.time() if now is None else now),
        **text_figures,
    )
    order: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
    return Audit(tuple(sorted(findings, key=lambda finding: order[finding.severity])), figures)


def _match_findings(catalog: Catalog, interactions: Interactions, rows: NDArray[np.int64]) -> Iterable[Finding]:
    """Yield what is to be said of interactions on items that the catalogue has not."""
    if len(rows) == 0:
        yield Finding("error", "no-events", "there are no interactions; nothing can be learned from them")
        return
    strangers = np.unique(interactions.item_rows[rows < 0])
    examples = tuple(interactions.items.values[strangers[:EXAMPLES]])
    if (rows < 0).all():
        ours = ", ".join(catalog.ids.values[:EXAMPLES])
        yield Finding(
            "error",
            "no-match",
            f"none of the {len(rows):,} interactions names an item of the catalogue, whose ids look like {ours}; "
            f"are the right columns mapped?{_near_miss(catalog, interactions)}",
            examples,
        )
    elif len(strangers):
        yield Finding(
            "warning",
            "unmatched",
            f"{_of(int((rows < 0).sum()), len(rows), 'interaction')} on {len(strangers):,} ids that the catalogue has "
            f"not; they are left out{_near_miss(catalog, interactions)}",
            examples,
        )


def _near_miss(catalog: Catalog, interactions: Interactions) -> str:
    """Say so where ids would match but for spaces, case, leading zeros or a trailing .0."""

    def folded(values: NDArray[np.object_]) -> pd.Series:
        words = pd.Series(values, dtype="string").str.strip().str.casefold()
        return words.str.replace(r"\.0$", "", regex=True).str.lstrip("0")

    strangers = interactions.items.values[catalog.ids.rows(interactions.items.values) < 0]
    n = int(folded(strangers).isin(folded(catalog.ids.values)).sum())
    return f"; {n:,} of these ids match but for spaces, case, leading zeros or a trailing .0" if n else ""


def _bad_row_findings(catalog: Catalog, interactions: Interactions) -> Iterable[Finding]:
    for name, account in (("catalogue", catalog.bad_rows), ("interactions", interactions.bad_rows)):
        if account is not None and account.n_bad:
            head = str(account).splitlines()[0]
            examples = tuple(f"line {line}: {text}" for line, _, text in account.first[:EXAMPLES])
            yield Finding("warning", "bad-rows", f"in the file of the {name} {head}; they were set aside", examples)


def _times(interactions: Interactions, now: float) -> dict[str, Any]:
    times = np.zeros(0) if interactions.times is None else interactions.times
    weights = np.zeros(0) if interactions.weights is None else interactions.weights
    bad = interactions.bad_rows.reasons if interactions.bad_rows is not None else {}
    return {
        "n_future_times": int((times > now + _DAY).sum()),
        "n_early_times": int((times < 0).sum()),
        # Interactions refuse NaN, so what a file had of it is in the reader's account.
        "n_nan_weights": int(np.isnan(weights).sum()) + sum(n for reason, n in bad.items() if "rating" in reason),
        "n_low_weights": int((weights <= 0).sum()),
    }


def _event_findings(interactions: Interactions, n_repeated: int, now: float) -> Iterable[Finding]:
    n, counts = len(interactions), _times(interactions, now)
    if n_repeated:
        verb = "repeats" if n_repeated == 1 else "repeat"
        text = f"{_of(n_repeated, n, 'interaction')} {verb} an earlier one; each pair counts once"
        yield Finding("note", "duplicate-events", text)
    times = np.zeros(0) if interactions.times is None else interactions.times
    for code, when, mask in (
        ("future-times", "in the future", times > now + _DAY),
        ("early-times", "before 1970", times < 0),
    ):
        if mask.any():
            text = f"{_of(int(mask.sum()), n, 'interaction')} {when}; check the unit of the times before a cut by time"
            yield Finding("warning", code, text, tuple(f"{x:.0f}" for x in np.unique(times[mask])[:EXAMPLES]))
    if counts["n_nan_weights"]:
        text = f"{counts['n_nan_weights']:,} interactions have no usable rating; they were set aside"
        yield Finding("warning", "nan-weights", text)
    if counts["n_low_weights"]:
        text = f"{_of(counts['n_low_weights'], n, 'interaction')} with a weight of 0 or less"
        yield Finding(
            "note", "low-weights", f"{text}: no positive sign, left out unless [data] positive says otherwise"
        )


def _people_findings(sizes: NDArray[np.int64]) -> Iterable[Finding]:
    n_short = int((sizes < 3).sum())
    if n_short:
        verb = "has" if n_short == 1 else "have"
        yield Finding(
            "note",
            "short-histories",
            f"{_of(n_short, len(sizes), 'person', 'people')} {verb} fewer than 3 distinct items and "
            f"{'is' if n_short == 1 else 'are'} never tested on warm items",
        )


def _cold_findings(counts: NDArray[np.int64]) -> Iterable[Finding]:
    n_cold = int((counts == 0).sum())
    if n_cold:
        verb = "has" if n_cold == 1 else "have"
        yield Finding("note", "cold", f"{_of(n_cold, len(counts), 'item')} {verb} no interaction: cold")


def _popularity(counts: NDArray[np.int64], n_users: int) -> dict[str, Any]:
    """Return the figures that follow from the number of distinct people of each item."""
    segments = Segments.from_counts(counts)
    falling = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    n, total = len(falling), float(falling.sum())
    reached = np.concatenate([[0.0], np.cumsum(falling)])
    curve = [(share, float(reached[max(1, int(share * n))] / total) if n else 0.0) for share in CURVE_AT]
    weight = 2 * np.arange(n, 0, -1) - n - 1
    return {
        "density": total / (n_users * len(counts)) if n_users and len(counts) else 0.0,
        "top_share": float(reached[int(HEAD_SHARE * n)] / total) if n else 0.0,
        "gini": float((weight * falling).sum() / (n * total)) if n else 0.0,
        "curve": tuple(curve),
        "n_head": int(segments.head.sum()),
        "n_tail": int(segments.tail.sum()),
        "n_cold": int(segments.cold.sum()),
    }


def _texts(
    catalog: Catalog, texts: Sequence[str] | None, max_tokens: int, token_counts: NDArray[Any] | None
) -> tuple[dict[str, Any], list[Finding]]:
    """Return the figures and findings on titles, descriptions and texts."""
    n = len(catalog)
    titles, descriptions = (
        pc.utf8_trim_whitespace(catalog.table[c].combine_chunks()) for c in ("title", "description")
    )
    both = pc.binary_join_element_wise(titles, descriptions, " ")
    text = pc.utf8_trim_whitespace(both if texts is None else pa.array(texts, pa.string()))
    if len(text) != n:
        raise DataError(f"there are {len(text):,} texts, expected {n:,}: one for each item")
    no_title, no_description, empty = (_mask(pc.equal(x, "")) for x in (titles, descriptions, text))
    repeated = pd.Series(text.to_numpy(zero_copy_only=False)).duplicated(keep=False).to_numpy() & ~empty
    estimated = token_counts is None
    if token_counts is None:
        words = np.asarray(pc.list_value_length(pc.utf8_split_whitespace(text)).to_numpy(zero_copy_only=False))
        token_counts = np.where(empty, 0, np.ceil(words * TOKENS_PER_WORD))
    tokens = np.asarray(token_counts)
    if tokens.shape != (n,):
        raise DataError(f"token_counts has shape {tokens.shape}, expected ({n},): one number for each item")
    cut = tokens > max_tokens
    figures = {
        "n_empty_texts": int(empty.sum()),
        "n_repeated_texts": int(repeated.sum()),
        "missing_title_share": float(no_title.mean()),
        "missing_description_share": float(no_description.mean()),
        "n_cut_texts": int(cut.sum()),
        "token_counts_estimated": estimated,
    }
    nothing = "neither title nor description" if texts is None else "no word in the columns of [text] fields"
    how = ", estimated from the number of words" if estimated else ""
    found = [
        _text_finding(catalog, empty, "error" if empty.all() else "warning", "empty-text",
                      f"has {nothing} and gets no vector; enrich it",
                      f"have {nothing} and get no vector; enrich them"),
        _text_finding(catalog, repeated, "warning", "repeated-text",
                      "has the same text as another one; the encoder cannot tell them apart",
                      "have the same text as another one; the encoder cannot tell them apart"),
        _text_finding(catalog, cut, "note", "cut-text",
                      f"has more than {max_tokens} tokens and is cut there{how}",
                      f"have more than {max_tokens} tokens and are cut there{how}"),
        _text_finding(catalog, no_title & ~empty, "note", "missing-title", "has no title", "have no title"),
        _text_finding(catalog, no_description & ~empty, "note", "missing-description",
                      "has no description; enrichment can write one", "have no description; enrichment can write one"),
    ]  # fmt: skip
    return figures, [finding for finding in found if finding is not None]


def _text_finding(
    catalog: Catalog, mask: NDArray[np.bool_], severity: Severity, code: str, one: str, many: str
) -> Finding | None:
    n = int(mask.sum())
    if n == 0:
        return None
    examples = tuple(catalog.ids.values[np.flatnonzero(mask)[:EXAMPLES]])
    return Finding(severity, code, f"{_of(n, len(catalog), 'item')} {one if n == 1 else many}", examples)


def _mask(values: Any) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _of(n: int, total: int, one: str, many: str = "") -> str:
    return f"{n:,} of {total:,} {one if total == 1 else many or one + 's'} ({100 * n / max(total, 1):.1f} %)"


def _readable(figures: Figures) -> Iterable[tuple[str, str]]:
    """Yield what a figure is called and its value as people write it."""
    for name, value in asdict(figures).items():
        words = name.removeprefix("n_").replace("_", " ")
        if name == "curve":
            shown = ", ".join(f"{100 * share:g} %: {100 * reached:.1f} %" for share, reached in value)
            yield "events on the most popular", shown
        elif name == "token_counts_estimated":
            continue
        elif name in ("density", "gini"):
            yield words, f"{value:.4f}"
        elif name == "top_share":
            yield f"events on the top {100 * HEAD_SHARE:g} % of items", f"{100 * value:.1f} %"
        elif name.endswith("_share"):
            yield words.removesuffix(" share"), f"{100 * value:.1f} %"
        else:
            yield words, f"{value:,}"
