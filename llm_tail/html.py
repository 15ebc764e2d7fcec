"""How answers look in a notebook: one small table, everything escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice
from typing import Any

MOST_ROWS = 20  # a notebook is no place for a million rows


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", note: str = "") -> str:
    """Return a table as HTML; every cell is escaped, so that no item can bring its own markup.

    Parameters
    ----------
    columns : sequence of str
        The heads.
    rows : iterable of sequences
        Cells; a float is shown with three digits, None as nothing. After the first 20 rows the rest is counted.
    title, note : str
        Stand above and below.

    Examples
    --------
    >>> html_table(["item"], [["<b>"]], title="1 item")
    '<div><b>1 item</b><table><thead><tr><th>item</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table></div>'
    """  # noqa: E501
    left = iter(rows)
    shown = list(islice(left, MOST_ROWS))
    n_more = sum(1 for _ in left)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in shown)
    head = "".join(f"<th>{escape(str(name))}</th>" for name in columns)
    more = [f"... and {n_more:,} more"] if n_more else []
    above = f"<b>{escape(title)}</b>" if title else ""
    below = "".join(f"<div>{escape(line)}</div>" for line in [*more, *([note] if note else [])])
    return f"<div>{above}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, float):
        return f"<td style='text-align: right'>{value:.3f}</td>"
    if isinstance(value, int):
        return f"<td style='text-align: right'>{value:,}</td>"
    return f"<td>{escape(str(value))}</td>"
