"""Keyphrases: the few phrases of a text that lie nearest to the whole of it, and far from each other.

No language model is asked: candidates are runs of words that stand in the text, and the encoder that makes the item
vectors anyway says how near each is to the item.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_tail.embedding.engine import TextEncoder
from llm_tail.errors import ConfigError, DataError
from llm_tail.progress import track

Floats = NDArray[np.float32]

# Scripts written without spaces between words: kana, hanzi, Thai, Lao, Burmese, Khmer.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0edf\u1000-\u109f\u1780-\u17ff"
_SHORTEST_RUN, _LONGEST_RUN = 2, 4  # letters of a candidate in such a script
_BREAK = re.compile(r"[^\w\s'’&/+.-]|[.](?=\s|$)|\s[-/&+]\s|_", re.UNICODE)
_BLOCK_BYTES = 64 << 20
_MOST_LETTERS = 4_000  # of a text are looked at
_COMMON_SHARE, _FEWEST_TEXTS = 0.3, 50
_CODE_DIGITS = 5  # a word with so many digits is a number of the maker's


class Phrase(NamedTuple):
    """A run of words of a text.

    Attributes
    ----------
    words : str
        As they stand in the text.
    similarity : float
        Cosine of the phrase and the whole text, in [-1, 1].
    """

    words: str
    similarity: float


class CommonWords(NamedTuple):
    """How common words are in a catalogue; made by `of`.

    Attributes
    ----------
    stop : frozenset of str
        What says nothing.
    rarity : mapping of str to float
        Inverse document frequency of each word, at least 1.
    """

    stop: frozenset[str]
    rarity: Mapping[str, float]

    @classmethod
    def of(cls, texts: Sequence[str]) -> CommonWords:
        """Count the words of all texts once, about 20,000 texts of 100 words a second."""
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(set(words_of(text)))
        n = sum(bool(text.strip()) for text in texts)
        common = {word for word, count in counts.items() if n >= _FEWEST_TEXTS and count > _COMMON_SHARE * n}
        rarity = {word: float(np.log((1 + n) / (1 + count)) + 1) for word, count in counts.items()}
        return cls(frozenset(ENGLISH_STOP_WORDS | common), rarity)


def keyphrases(
    texts: Sequence[str],
    encoder: TextEncoder,
    *,
    vectors: Floats | None = None,
    common: CommonWords | None = None,
    k: int = 5,
    diversity: float = 0.3,
    longest: int = 3,
    most: int = 20,
    progress: bool = False,
) -> list[list[Phrase]]:
    """Return the phrases of each text that say most about it and repeat each other least, best first.

    Parameters
    ----------
    texts : sequence of str
        Any language; an empty one has no phrases.
    encoder : TextEncoder
        What makes vectors of phrases; that of the item vectors.
    vectors : array of float32, shape (n_texts, dim), optional
        Unit vectors of the texts by the same encoder; made here if left out.
    common : CommonWords, optional
        Of the whole catalogue, where `texts` are a part of it: the same text has the same phrases then, whatever it is
        asked with. Counted in `texts` if left out.
    k : int
        How many for each text, at least 1; fewer where there are fewer.
    diversity : float
        How much being like a chosen phrase counts against one, in [0, 1).
    longest : int
        Most words of a phrase, at least 1.
    most : int
        Candidates of a text that are encoded, at least 1: those with the rarest words of the catalogue.
    progress : bool
        Show a bar.

    Returns
    -------
    list of list of Phrase

    Raises
    ------
    ConfigError
        If a setting is out of its range.
    DataError
        If `vectors` do not fit `texts`.

    Notes
    -----
    Maximal marginal relevance: next is the candidate with the largest (1 - diversity) cos(c, text) - diversity
    max cos(c, chosen); one that holds a chosen phrase or is held by it never is. Of a block of texts each distinct
    candidate is encoded once; memory is a block of at most 64 MB, time that of about ``most / 2`` short texts a text.
    J. Carbonell and J. Goldstein, "The Use of MMR", SIGIR 1998, with vectors as in M. Grootendorst's KeyBERT.

    Examples
    --------
    >>> from llm_tail.embedding.tfidf import TfidfEncoder
    >>> texts = ["The white whale hunts the ship", "An iron pan for the kitchen", "A steel pan for the stove"]
    >>> [[phrase.words for phrase in each] for each in keyphrases(texts, TfidfEncoder.fit(texts), k=1)]
    [['white'], ['iron pan'], ['steel pan']]
    """
    if k < 1 or longest < 1 or most < 1 or not 0 <= diversity < 1:
        given = f"k is {k}, longest {longest}, most {most}, diversity {diversity}"
        raise ConfigError(f"{given}; expected at least 1 of the first three and a diversity from 0 to below 1")
    if vectors is not None and vectors.shape != (len(texts), encoder.dim):
        raise DataError(f"vectors have shape {vectors.shape}, expected ({len(texts)}, {encoder.dim})")
    stop, weights = common or CommonWords.of(texts)
    found: list[list[Phrase]] = []
    step = max(1, _BLOCK_BYTES // (4 * most * (encoder.dim + 3 * most)))
    starts = range(0, len(texts), step)
    for start in track(starts, "keyphrases") if progress else starts:
        block = texts[start : start + step]
        each = [candidates(text, longest=longest, most=most, stop=stop, weights=weights) for text in block]
        own = encoder.encode(block) if vectors is None else vectors[start : start + step]
        found += _chosen(each, np.asarray(own, np.float32), encoder, k, diversity)
    return found


def candidates(
    text: str,
    *,
    longest: int = 3,
    most: int = 20,
    stop: Set[str] = frozenset(),
    weights: Mapping[str, float] | None = None,
) -> list[str]:
    """Return the phrases that a text offers, each once (case does not count), as it is first written.

    Runs of at most `longest` words, not across punctuation or a stop word; in scripts without spaces, runs of 2 to 4
    letters. Where there are more than `most`, those with the largest weight a word, and of equal ones the first.

    Parameters
    ----------
    text : str
        Of long ones the first 4,000 letters are read.
    longest, most : int
        Words of a phrase, and phrases.
    stop : set of str
        Words, lower case, that no phrase holds.
    weights : mapping, optional
        What a word (lower case) is worth; 1 if left out.

    Examples
    --------
    >>> candidates("Claw hammer, 16 oz", longest=2)
    ['Claw', 'Claw hammer', 'hammer', '16 oz', 'oz']
    >>> candidates("铸铁锅")
    ['铸铁', '铸铁锅', '铁锅']
    """
    counts: Counter[str] = Counter()
    first: dict[str, tuple[str, ...]] = {}
    shown: dict[str, str] = {}
    for run in _runs(text[:_MOST_LETTERS], stop):
        for words, phrase in _grams(run, longest):
            key = phrase.lower()
            counts[key] += 1
            first.setdefault(key, words)
            shown.setdefault(key, phrase)
    if len(shown) <= most:
        return list(shown.values())

    def worth(key: str) -> float:
        words = first[key]
        each = [1.0 if weights is None else weights.get(word.lower(), 1.0) for word in words]
        return float(np.log1p(counts[key]) * sum(each) / len(each) * len(each) ** 0.5)

    best = set(sorted(shown, key=worth, reverse=True)[:most])
    return [phrase for key, phrase in shown.items() if key in best]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; in scripts without spaces, runs of two letters.

    Examples
    --------
    >>> words_of("Moby-Dick, or: the whale"), words_of("鯨の本")
    (['moby', 'dick', 'or', 'the', 'whale'], ['鯨の', 'の本'])
    """
    found: list[str] = []
    for word in _word_pattern().findall(text[:_MOST_LETTERS].lower()):
        if _is_unspaced(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        else:
            found.append(word)
    return found


@cache
def _word_pattern() -> re.Pattern[str]:
    """Match a word: letters and digits with the signs on and between them, or a run of a script without spaces."""
    signs = [chr(c) for c in range(0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc")]
    marks = "".join(map(re.escape, signs))
    return re.compile(rf"[{_UNSPACED}]+|(?:(?![{_UNSPACED}_])[\w{marks}]|(?<=\w)['’](?=\w))+")


@cache
def _unspaced_pattern() -> re.Pattern[str]:
    return re.compile(rf"[{_UNSPACED}]")


def _is_unspaced(word: str) -> bool:
    return _unspaced_pattern().match(word) is not None


def _runs(text: str, stop: Set[str]) -> Iterator[list[str]]:
    """Yield runs of words between punctuation and stop words."""
    for part in _BREAK.split(text):
        run: list[str] = []
        for word in _word_pattern().findall(part):
            if _is_unspaced(word) or word.lower() in stop or sum(map(str.isdigit, word)) >= _CODE_DIGITS:
                if run:
                    yield run
                run = []
                if _is_unspaced(word):
                    yield [word]
            else:
                run.append(word)
        if run:
            yield run


def _grams(run: list[str], longest: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the phrases of a run as their words and as they are shown."""
    if len(run) == 1 and _is_unspaced(run[0]):
        word = run[0]
        for start in range(len(word)):
            for n in range(_SHORTEST_RUN, _LONGEST_RUN + 1):
                if start + n <= len(word):
                    yield (word[start : start + n],), word[start : start + n]
        return
    for start in range(len(run)):
        for n in range(1, longest + 1):
            words = tuple(run[start : start + n])
            if start + n <= len(run) and any(c.isalpha() for c in words[-1]) and len("".join(words)) > 1:
                yield words, " ".join(words)


def _chosen(
    each: list[list[str]], vectors: Floats, encoder: TextEncoder, k: int, diversity: float
) -> list[list[Phrase]]:
    """Return the best phrases of each text of a block."""
    places: dict[str, int] = {}
    for phrases in each:
        for phrase in phrases:
            places.setdefault(phrase, len(places))
    if not places:
        return [[] for _ in each]
    encoded = np.asarray(encoder.encode(list(places)), np.float32)  # (n_distinct, dim)
    width = max(map(len, each))
    rows = np.full((len(each), width), -1, dtype=np.int64)
    for line, phrases in enumerate(each):
        rows[line, : len(phrases)] = [places[phrase] for phrase in phrases]
    there = rows >= 0
    own = encoded[np.maximum(rows, 0)] * there[:, :, None]  # (n, width, dim)
    near = np.einsum("nwd,nd->nw", own, vectors)  # (n, width)
    between = own @ own.transpose(0, 2, 1)  # (n, width, width)
    picked = _marginal(near, between, _nested(each, width), there, k, diversity)
    return [
        [Phrase(phrases[place], round(float(near[line, place]), 4)) for place in picked[line] if place >= 0]
        for line, phrases in enumerate(each)
    ]


def _nested(each: list[list[str]], width: int) -> NDArray[np.bool_]:
    """Return which phrases of a text hold which others, either way, shape (n, width, width)."""
    nested = np.zeros((len(each), width, width), dtype=bool)
    for line, phrases in enumerate(each):
        padded = [f" {phrase.lower()} " if " " in phrase or not _is_unspaced(phrase) else phrase for phrase in phrases]
        for i, one in enumerate(padded):
            nested[line, i, : len(padded)] = [one in other or other in one for other in padded]
    return nested


def _marginal(
    near: Floats, between: Floats, nested: NDArray[np.bool_], there: NDArray[np.bool_], k: int, diversity: float
) -> NDArray[np.int64]:
    """Return the places chosen one after the other, shape (n, k), -1 where none is left."""
    n, width = near.shape
    picked = np.full((n, k), -1, dtype=np.int64)
    lines, open_, nearest = np.arange(n), there.copy(), np.zeros((n, width), dtype=np.float32)
    for turn in range(min(k, width)):
        gain = np.where(open_, (1 - diversity) * near - diversity * nearest, -np.inf)
        best = np.argmax(np.round(gain, 5), axis=1)  # rounded: the same choice whatever the last bits say
        fit = np.isfinite(gain[lines, best])
        picked[:, turn] = np.where(fit, best, -1)
        open_ &= ~(nested[lines, best] & fit[:, None])
        likeness = np.where(fit[:, None], between[lines, best], -1.0)
        nearest = likeness if turn == 0 else np.maximum(nearest, likeness)
    return picked
