"""What counts as a word in a text, in any script: for search by words."""

from __future__ import annotations

import re
import unicodedata

# Scripts that put no spaces between words: Thai to Burmese, Khmer, kana, Han. Their runs are cut into pairs.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
UNSPACED += "\uf900-\ufaff\U00020000-\U0003ffff"
MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0dff"  # what \w leaves out of a word
LETTER = rf"(?:(?![{UNSPACED}_])[\w{MARKS}])"
TOKEN = re.compile(rf"(?P<run>[{UNSPACED}]+)|{LETTER}+(?:[-./_+'’]{LETTER}+)*")
BETWEEN = re.compile(r"[-./_+'’]")
TIMES = re.compile(r"(?<=\d)x(?=\d)")
WITH_UNIT = re.compile(r"(\d+)([^\W\d_]+)")
NUMBER = re.compile(r"\d+(?:\.\d+)*")


def tokens_of(text: str) -> list[str]:
    """Return the words of a text, in order, without case.

    A model number counts whole, without its signs, and in its parts: whoever types a part of it, or writes it another
    way, finds it. Runs of Chinese, Japanese, Thai, Lao, Khmer and Burmese count as pairs of characters.

    Parameters
    ----------
    text : str
        Of any length.

    Examples
    --------
    >>> tokens_of("Hex bolts, M8x20-A2")
    ['hex', 'bolts', 'm8x20-a2', 'm8x20a2', 'm8x20', 'm8', '20', 'a2']
    >>> tokens_of("不锈钢 20mm")
    ['不锈', '锈钢', '20mm', '20', 'mm']
    """
    found: list[str] = []
    for match in TOKEN.finditer(unicodedata.normalize("NFKC", text).casefold()):
        word = match.group()
        if match.group("run"):
            found += [word[n : n + 2] for n in range(len(word) - 1)] or [word]
        elif word.isalpha():
            found.append(word)
        else:
            found += _pieces(word)
    return found


def _pieces(word: str) -> list[str]:
    parts = BETWEEN.split(word)
    if not any(letter.isdigit() for letter in word):
        return parts  # well-known, l'eau
    if NUMBER.fullmatch(word):
        return [word]  # 3.5 is neither 3 nor 5
    pieces = dict.fromkeys([word, "".join(parts)])
    for part in parts:
        pieces[part] = None
        sides = TIMES.split(part)
        pieces.update(dict.fromkeys(sides))
        for side in sides:
            if unit := WITH_UNIT.fullmatch(side):
                pieces.update(dict.fromkeys(unit.groups()))
    return list(pieces)
