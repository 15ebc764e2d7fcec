"""The markup of web pages in texts: what it is, and the words without it."""

from __future__ import annotations

import html
import re

_TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)\s*>|<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL | re.I)
# Elements of descriptions, by name: what merely stands between < and > is no markup.
_ELEMENT = re.compile(
    r"</?(?:abbr|blockquote|br|center|div|em|font|h[1-6]|hr|img|li|ol|pre|script|small|span|strong|style|sub|sup|table"
    r"|tbody|td|th|thead|tr|ul|[abipu])(?:\s+[a-z-]+\s*=[^<>]*)?\s*/?>",
    re.I,
)
_SPACE = re.compile(r"\s+")


def strip_html(text: str) -> str:
    """Return text without tags, entities turned into characters, spaces made single.

    Examples
    --------
    >>> strip_html("<p>Fast &amp; quiet<br/>5 < 6</p>")
    'Fast & quiet 5 < 6'
    """
    return _SPACE.sub(" ", _TAG.sub(" ", html.unescape(text))).strip()


def without_markup(text: str) -> str:
    """Return text as it is, or by `strip_html` where an element of web pages stands in it.

    Examples
    --------
    >>> without_markup("<b>Fast</b> &amp; quiet"), without_markup("list<int> &amp; 5 < 6 > 4")
    ('Fast & quiet', 'list<int> &amp; 5 < 6 > 4')
    """
    return strip_html(text) if "<" in text and _ELEMENT.search(text) else text
