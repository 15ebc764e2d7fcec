"""WordIndex: which items share the words of a question; what vectors blur, such as model numbers and names.

BM25 in the form that Lucene uses, by bm25s (X. H. Lù, https://arxiv.org/abs/2407.03618), which computes the weight of
every word in every text beforehand. A weight hangs on all texts; what comes later is weighed with the counts at hand
until there is much of it, and then all is counted anew.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import bm25s
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llm_tail.artifacts import fingerprint as digest
from llm_tail.artifacts import read_artifact, write_artifact
from llm_tail.data.catalog import Catalog
from llm_tail.data.ids import IdMap, Rows
from llm_tail.data.segments import Segments
from llm_tail.errors import CorruptArtifactError, DataError, UnknownIdError
from llm_tail.neighbors.answers import Neighbors, names_of
from llm_tail.neighbors.columns import Columns, Gate, Where
from llm_tail.neighbors.exact import Similarities, check_k
from llm_tail.neighbors.tokens import tokens_of

KIND = "word-index"
K1, B = 1.5, 0.75
LATE_SHARE, LATE_LEAST = 0.1, 500  # how much may come or go before all is counted anew


@dataclass(frozen=True)
class _Texts:
    """What is searched, never changed: whoever asks holds one, whoever changes items makes another.

    The first items are counted in `bm25`; those behind them came later and have their own counts.
    """

    all_names: NDArray[np.object_]
    live: NDArray[np.bool_]
    row_of: dict[str, int]
    tokens: NDArray[np.int32]  # of all counted texts, one after the other
    starts: NDArray[np.int64]  # where each begins, and the end
    vocabulary: dict[str, int]
    bm25: Any
    late: tuple[Counter[str], ...] = ()
    version: int = 0

    @property
    def n_counted(self) -> int:
        return len(self.starts) - 1

    def rows(self, item_ids: Sequence[str]) -> Rows:
        return np.fromiter((self.row_of.get(str(x), -1) for x in item_ids), np.int64, count=len(item_ids))

    def names(self, rows: Rows) -> list[str]:
        return [str(x) for x in self.all_names[rows]]

    def __len__(self) -> int:
        return len(self.all_names)


class WordIndex:
    """Items by the words of their texts; made with `build` or `load`.

    Notes
    -----
    Any number of threads may ask while one changes items. Build: about 10,000 texts of 40 words a second. A question:
    a millisecond for 100,000 texts. Memory: 12 bytes for each distinct word of each text, and 4 for each word.

    Examples
    --------
    >>> words = WordIndex.build(["a", "b", "c"], ["Hex bolt M8x20-A2", "Hex nut M8", "Washer"])
    >>> words
    WordIndex(3 items, 10 words)
    >>> words.search("m8x20 a2").item_ids
    ('a', 'b')
    """

    def __init__(self, texts: _Texts) -> None:
        self._texts = texts
        self._gate = Gate()
        self._writing = threading.RLock()

    @classmethod
    def build(cls, ids: IdMap | Iterable[str], texts: Sequence[str]) -> Self:
        """Count the words of texts.

        Parameters
        ----------
        ids : IdMap or iterable of str
            The items, distinct.
        texts : sequence of str
            One for each item, such as `ItemText.texts` gives; an empty one is found by nothing.

        Raises
        ------
        DataError
            If there are not as many texts as items, or one is no str.
        """
        ids = ids if isinstance(ids, IdMap) else IdMap(ids)
        _check(ids, texts)
        vocabulary: dict[str, int] = {}
        counted = [[vocabulary.setdefault(w, len(vocabulary)) for w in tokens_of(text)] for text in texts]
        starts = np.cumsum([0, *map(len, counted)])
        tokens = np.fromiter((token for line in counted for token in line), np.int32, count=int(starts[-1]))
        return cls(_made(ids.values, tokens, starts, vocabulary, counted))

    @property
    def ids(self) -> IdMap:
        """The items, in the order in which they came."""
        return IdMap(self._texts.all_names[self._texts.live])

    def search(self, text: str, k: int = 10, *, where: Where | None = None) -> Neighbors:
        """Return the items that share most, and the rarest, words with a text.

        Parameters
        ----------
        text : str
            Any words.
        k : int
            How many at most; items that share no word are not among them.
        where : str, array or sequence, optional
            Which items may be found, as of `NeighborIndex.query`; rows are those of `ids` before anything was removed.

        Returns
        -------
        Neighbors
            With BM25 scores above 0 in place of cosines, best first, equal ones in the order of the items.

        Raises
        ------
        DataError
            If k is below 1, or the text is no str.
        """
        if not isinstance(text, str):
            raise DataError(f"the text is {text!r}, expected a str")
        k, texts = check_k(k), self._texts
        allowed = texts.live if where is None else self._gate.allowed(where, texts).mask
        scores = np.where(allowed, _scores(texts, tokens_of(text)), 0.0)  # (n_items,)
        found = np.flatnonzero(scores > 0)
        if len(found) > k:
            border = np.partition(scores[found], len(found) - k)[len(found) - k]
            found = found[scores[found] >= border]
        found = found[np.lexsort((found, -scores[found]))][:k]
        return Neighbors(tuple(texts.names(found)), scores[found].astype(np.float32))

    def attach(self, catalog: Catalog, segments: Segments | None = None) -> Self:
        """Let filters in words look at the columns of a catalogue, as `NeighborIndex.attach` does."""
        self._gate.attach(Columns(catalog, segments))
        return self

    def add(self, ids: IdMap | Iterable[str], texts: Sequence[str]) -> None:
        """Add items, or give those that are there other texts.

        Costs what the texts are long and 5 ms for 100,000 items; where more than a tenth has changed, as much as
        `build` without its reading of texts.
        """
        ids = ids if isinstance(ids, IdMap) else IdMap(ids)
        _check(ids, texts)
        with self._writing:
            before = self._texts
            live, row_of, names = before.live.copy(), dict(before.row_of), ids.values
            known = before.rows(names.tolist())
            live[known[known >= 0]] = False
            row_of.update(zip(names.tolist(), range(len(before), len(before) + len(names)), strict=True))
            self._texts = replace(
                before,
                all_names=np.concatenate([before.all_names, names]),
                live=np.concatenate([live, np.ones(len(names), dtype=bool)]),
                row_of=row_of,
                late=(*before.late, *(Counter(tokens_of(text)) for text in texts)),
                version=before.version + 1,
            )
            self._keep_up()

    def remove(self, item_ids: str | Iterable[str]) -> None:
        """Take items out, all of them or, where one is unknown, none; `UnknownIdError` then."""
        names = names_of(item_ids)
        with self._writing:
            before = self._texts
            rows = before.rows(names)
            if (rows < 0).any():
                raise UnknownIdError("item", names[int(np.argmax(rows < 0))], before.row_of)
            live, gone = before.live.copy(), set(names)
            live[rows] = False
            row_of = {name: row for name, row in before.row_of.items() if name not in gone}
            self._texts = replace(before, live=live, row_of=row_of, version=before.version + 1)
            self._keep_up()

    def _keep_up(self) -> None:
        texts = self._texts
        n_changed = int((~texts.live).sum()) + len(texts.late)
        if n_changed > max(LATE_LEAST, LATE_SHARE * len(texts.row_of)):
            self.compact()

    def compact(self) -> None:
        """Count all words anew, so that every weight knows of every text."""
        with self._writing:
            texts = self._texts
            if not texts.late and texts.live.all():
                return
            known: dict[str, int] = {}
            words, counted = list(texts.vocabulary), []
            bounds = texts.starts.tolist()
            for row in np.flatnonzero(texts.live).tolist():
                if row < texts.n_counted:
                    line: Iterable[str] = (words[n] for n in texts.tokens[bounds[row] : bounds[row + 1]].tolist())
                else:
                    line = texts.late[row - texts.n_counted].elements()
                counted.append([known.setdefault(word, len(known)) for word in line])
            starts = np.cumsum([0, *map(len, counted)])
            tokens = np.fromiter((token for line in counted for token in line), np.int32, count=int(starts[-1]))
            names = texts.all_names[texts.live]
            self._texts = replace(_made(names, tokens, starts, known, counted), version=texts.version + 1)

    def fingerprint(self) -> str:
        """Return a digest of the items and the words of their texts."""
        self.compact()
        texts = self._texts
        return digest(texts.all_names, texts.tokens, texts.starts, list(texts.vocabulary))

    def save(self, folder: str | Path, *, fingerprint: str | None = None) -> Path:
        """Write the index and return its folder; all words are counted anew before, where some came later."""
        with self._writing:
            made = fingerprint or self.fingerprint()
            self.compact()
            texts = self._texts
            with write_artifact(folder, KIND, made, {"n_items": len(texts), "k1": K1, "b": B}) as draft:
                scores = texts.bm25.scores if texts.bm25 else {}
                weights = {name: np.ascontiguousarray(scores[name]) for name in ("data", "indices", "indptr") if scores}
                save_file({"tokens": texts.tokens, "starts": texts.starts, **weights}, draft.file("words.safetensors"))
                pd.DataFrame({"id": texts.all_names.astype(str)}).to_parquet(draft.file("ids.parquet"))
                words = pd.Series(list(texts.vocabulary), dtype=str)
                pd.DataFrame({"word": words}).to_parquet(draft.file("vocabulary.parquet"))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None) -> Self:
        """Read an index that `save` wrote; every file is checked against its digest before it is opened.

        Raises
        ------
        StaleArtifactError
            If it is not there, or was made from something else than `fingerprint` says.
        CorruptArtifactError
            If a file is not what was written.
        """
        artifact = read_artifact(folder, KIND, fingerprint, stage="llm-tail index")
        try:
            stored = load_file(artifact.file("words.safetensors"))
            names = pd.read_parquet(artifact.file("ids.parquet"))["id"].to_numpy(dtype=object)
            words = pd.read_parquet(artifact.file("vocabulary.parquet"))["word"].tolist()
            bm25 = _bm25(len(names), {name: stored[name] for name in ("data", "indices", "indptr") if name in stored})
        except (KeyError, ValueError, OSError, SafetensorError) as error:
            raise CorruptArtifactError(
                f"the {KIND} at {folder} cannot be read ({error})", "remove the folder, then run: llm-tail index"
            ) from error
        vocabulary = {word: n for n, word in enumerate(words)}
        return cls(_texts(names, stored["tokens"], stored["starts"], vocabulary, bm25))

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._texts.row_of

    def __len__(self) -> int:
        return len(self._texts.row_of)

    def __repr__(self) -> str:
        return f"WordIndex({len(self):,} items, {len(self._texts.vocabulary):,} words)"


def _check(ids: IdMap, texts: Sequence[str]) -> None:
    if isinstance(texts, str) or len(texts) != len(ids):
        raise DataError(f"there are {len(texts):,} texts for {len(ids):,} items; expected one for each")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"the text of {ids[row]!r} is {text!r}, expected a str")


def _made(
    names: NDArray[np.object_],
    tokens: NDArray[np.int32],
    starts: NDArray[np.int64],
    vocabulary: dict[str, int],
    counted: list[list[int]],
) -> _Texts:
    bm25 = _bm25(len(names), {})
    if bm25 is not None and len(tokens):
        bm25.index((counted, vocabulary), create_empty_token=False, show_progress=False)
    else:
        bm25 = None
    return _texts(names, tokens, starts, vocabulary, bm25)


def _texts(
    names: NDArray[np.object_],
    tokens: NDArray[np.int32],
    starts: NDArray[np.int64],
    vocabulary: dict[str, int],
    bm25: Any,
) -> _Texts:
    row_of = {str(name): row for row, name in enumerate(names)}
    live = np.ones(len(names), dtype=bool)
    return _Texts(names, live, row_of, tokens, starts, vocabulary, bm25 if len(tokens) else None)


def _bm25(n_items: int, scores: dict[str, NDArray[Any]]) -> Any:
    if not n_items:
        return None
    made = bm25s.BM25(k1=K1, b=B, method="lucene")
    if scores:
        made.scores, made.nonoccurrence_array = {**scores, "num_docs": n_items}, None
    return made


def _scores(texts: _Texts, words: list[str]) -> Similarities:
    """Return the BM25 score of each item, shape (n_items,)."""
    found = np.zeros(len(texts), dtype=np.float32)
    asked = list(dict.fromkeys(words))
    known = [texts.vocabulary[word] for word in asked if word in texts.vocabulary]
    if known and texts.bm25 is not None:
        found[: texts.n_counted] = texts.bm25.get_scores_from_ids(known)
    if texts.late and asked:
        found[texts.n_counted :] = _late_scores(texts, asked)
    return found


def _late_scores(texts: _Texts, asked: list[str]) -> list[float]:
    """Weigh the words of later texts by the counts of the earlier ones, with the formula that these have."""
    n, mean = max(texts.n_counted, 1), max(len(texts.tokens) / max(texts.n_counted, 1), 1.0)
    ends = texts.bm25.scores["indptr"] if texts.bm25 is not None else None
    rare = {}
    for word in asked:
        at = texts.vocabulary.get(word)
        n_with = 0 if at is None or ends is None else int(ends[at + 1] - ends[at])
        rare[word] = float(np.log(1 + (n - n_with + 0.5) / (n_with + 0.5)))
    scores = []
    for counts in texts.late:
        damp = K1 * (1 - B + B * counts.total() / mean)
        scores.append(sum(weight * counts[word] / (counts[word] + damp) for word, weight in rare.items()))
    return scores
