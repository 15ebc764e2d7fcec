"""The extractive backend: words for thin items out of the catalogue itself, with the encoder and no language model.

What it gives, each with its basis:

=============  ==========  =========================================================================================
part           basis       where it comes from
=============  ==========  =========================================================================================
keyphrases     text        the item's own text (`keyphrases`)
categories     guess       values of the catalogue's columns that the item lacks and seems to have (`Taxonomy`)
borrowed       borrowed    words that several near items share and a thin item lacks (`borrow_words`)
summary        text        the first sentence of its own text; where there is none, its title and the parts above
=============  ==========  =========================================================================================

Nothing comes from what people did, and the same catalogue, encoder and settings give the same answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from llm_tail.artifacts import fingerprint
from llm_tail.config.enriching import Task
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.embeddings import Embeddings
from llm_tail.embedding.engine import TextEncoder
from llm_tail.embedding.negatives import Search
from llm_tail.embedding.text import ItemText
from llm_tail.enrichment.backends import Reply, Request
from llm_tail.enrichment.borrowing import Lending, Loan
from llm_tail.enrichment.keyphrases import CommonWords, Phrase, keyphrases, words_of
from llm_tail.enrichment.taxonomy import Attribute, Taxonomy, category_columns
from llm_tail.errors import ConfigError, DataError

Part = Literal["keyphrases", "categories", "borrowed"]
PARTS: tuple[Part, ...] = get_args(Part)
USUAL: tuple[Part, ...] = ("keyphrases", "categories")  # borrowed words lost on every catalogue they were measured on
TASKS: tuple[Task, ...] = ("attributes", "summary")
THIN_WORDS = 25  # a text with fewer is thin: it borrows
BLOCK = 1024  # requests that are answered together
_MOST_PARTS, _LONGEST_VALUE, _LONGEST_NAME = 20, 80, 40
_LONGEST_SUMMARY, _SHORTEST_SUMMARY = 400, 20
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


class Extractive:
    """A backend that answers with words of the catalogue; made by `learn`.

    It answers ``attributes`` and ``summary``; to other tasks it replies with an error.

    Parameters
    ----------
    catalog : Catalog
        The items.
    texts : list of str
        Their texts, one a row.
    vectors : array of float32, shape (n_items, dim)
        Unit vectors of the texts.
    encoder : TextEncoder
        What made them.
    taxonomy : Taxonomy
        What the values of the columns look like.
    parts : sequence of {"keyphrases", "categories", "borrowed"}
        What answers are made of.
    settings : mapping
        What else they depend on.
    search : callable, optional
        Finds the nearest, as in `borrow_words`.

    Examples
    --------
    >>> from llm_tail.embedding.tfidf import TfidfEncoder
    >>> books = [
    ...     {"item_id": "emma", "title": "Emma", "description": "A match-maker errs in a quiet English village."},
    ...     {"item_id": "dune", "title": "Dune", "description": "A desert planet and its spice."},
    ... ]
    >>> catalog = Catalog.from_items(books)
    >>> backend = Extractive.learn(catalog, TfidfEncoder.fit(ItemText().texts(catalog)), n_keyphrases=2)
    >>> request = Request(key="1", task="summary", subject="emma", domain="books", language="en", fields={})
    >>> json.loads(next(backend.answer([request])).text)["summary"]
    'Emma: A match-maker errs in a quiet English village.'
    """

    name = "extractive"
    costs = False
    extracts = True
    tasks = TASKS

    def __init__(
        self,
        catalog: Catalog,
        texts: Sequence[str],
        vectors: NDArray[np.float32],
        encoder: TextEncoder,
        taxonomy: Taxonomy,
        *,
        parts: Sequence[Part] = USUAL,
        settings: Mapping[str, Any],
        search: Search | None = None,
    ) -> None:
        self.catalog, self.texts, self.vectors, self.encoder = catalog, list(texts), vectors, encoder
        self.taxonomy, self.parts, self.search = taxonomy, tuple(parts), search
        self.model = encoder.fingerprint
        self.settings: Mapping[str, Any] = dict(settings)
        self._common = CommonWords.of(self.texts)
        self._thin = np.array([len(words_of(text)) < int(settings["thin_words"]) for text in self.texts])

    @classmethod
    def learn(
        cls,
        catalog: Catalog,
        encoder: TextEncoder,
        text: ItemText | None = None,
        *,
        embeddings: Embeddings | None = None,
        columns: Sequence[str] | None = None,
        parts: Sequence[Part] = USUAL,
        n_keyphrases: int = 5,
        n_borrowed: int = 8,
        neighbors: int = 10,
        min_lenders: int = 3,
        min_similarity: float = 0.4,
        min_confidence: float = 0.8,
        thin_words: int = THIN_WORDS,
        search: Search | None = None,
        seed: int = 0,
    ) -> Self:
        """Look at the whole catalogue once: its texts, their vectors, and what its categories look like.

        Parameters
        ----------
        catalog : Catalog
            The items. Interactions are not asked for.
        encoder : TextEncoder
            That of the item vectors.
        text : ItemText, optional
            How an item becomes a text.
        embeddings : Embeddings, optional
            Vectors of these texts by this encoder; made here if left out.
        columns : sequence of str, optional
            Whose values may be guessed; those that `category_columns` finds if left out.
        parts : sequence of {"keyphrases", "categories", "borrowed"}
            What answers are made of; borrowed words only where they are asked for.
        n_keyphrases, n_borrowed : int
            Most keyphrases and borrowed words of an item, at least 1.
        neighbors, min_lenders, min_similarity
            As in `borrow_words`.
        min_confidence : float
            Values that are less sure are not told, in [0, 1].
        thin_words : int
            An item with fewer words borrows, and lends nothing.
        search : callable, optional
            As in `borrow_words`.
        seed : int
            Of which items are hidden to learn confidence.

        Raises
        ------
        ConfigError
            If a part is unknown.

        Notes
        -----
        Encodes every text that has no vector yet, and the titles of items whose categories are known if some item with
        a title only lacks one: confidence is learned from texts as short as those it is for.
        """
        wrong = [part for part in parts if part not in PARTS]
        if wrong or not parts:
            raise ConfigError(f"parts are {list(parts)}, expected some of {', '.join(PARTS)}")
        text = text or ItemText()
        texts = text.texts(catalog)
        vectors = Embeddings(catalog.ids, encoder.encode(texts)) if embeddings is None else embeddings.on(catalog)
        taxonomy = Taxonomy([], np.zeros(vectors.dim, np.float32), [])
        if "categories" in parts:
            names = category_columns(catalog) if columns is None else list(columns)
            thin = _titles(catalog, names, texts, encoder, thin_words)
            taxonomy = Taxonomy.learn(catalog, vectors, names, encoder=encoder, thin=thin, seed=seed)
        settings = {
            "n_keyphrases": n_keyphrases,
            "n_borrowed": n_borrowed,
            "neighbors": neighbors,
            "min_lenders": min_lenders,
            "min_similarity": min_similarity,
            "min_confidence": min_confidence,
            "thin_words": thin_words,
            "seed": seed,
            "parts": list(parts),
            "columns": taxonomy.columns,
            "catalog": fingerprint("extractive-1", catalog.fingerprint(), text.fingerprint()),
        }
        return cls(
            catalog, texts, vectors.vectors, encoder, taxonomy, parts=parts, settings=settings, search=search
        )  # fmt: skip

    def check(self) -> None:
        """Do nothing: whatever was learned can answer."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for each request, 1,024 requests at a time.

        Raises
        ------
        DataError
            If a request is about an item that was not there when this was learned.
        """
        waiting = iter(requests)
        while block := list(islice(waiting, BLOCK)):
            asked = [request for request in block if request.task in TASKS]
            rows = self.catalog.ids.rows([request.subject for request in asked])
            if (rows < 0).any():
                unknown = asked[int(np.argmax(rows < 0))].subject
                raise DataError(f"item {unknown!r} was not in the catalogue that was learned from; learn it again")
            distinct = np.unique(rows)
            told = dict(zip(distinct.tolist(), self.extract(distinct), strict=True))
            for request in block:
                if request.task not in TASKS:
                    yield Reply(request.key, error=f"extractive answers {' and '.join(TASKS)}, not {request.task}")
                else:
                    yield self._reply(request, told[self.catalog.ids.row(request.subject)])

    def extract(self, rows: NDArray[np.int64]) -> list[tuple[list[Phrase], list[Attribute], list[Loan]]]:
        """Return keyphrases, guessed values and borrowed words of items given as rows; empty where not asked for."""
        n, s = len(rows), self.settings
        phrases: list[list[Phrase]] = [[] for _ in range(n)]
        guesses: list[list[Attribute]] = [[] for _ in range(n)]
        loans: list[list[Loan]] = [[] for _ in range(n)]
        if "keyphrases" in self.parts and n:
            texts = [self.texts[row] for row in rows]
            own = self.vectors[rows]
            phrases = keyphrases(texts, self.encoder, vectors=own, common=self._common, k=s["n_keyphrases"])
        if "categories" in self.parts and n:
            guesses = self._missing(rows, self.taxonomy.guess(self.vectors[rows], min_confidence=s["min_confidence"]))
        if "borrowed" in self.parts and n:
            thin = np.flatnonzero(self._thin[rows])
            found = self._lending.lend(
                rows[thin],
                k=s["n_borrowed"],
                neighbors=s["neighbors"],
                min_lenders=s["min_lenders"],
                min_similarity=s["min_similarity"],
            )
            for place, each in zip(thin, found, strict=True):
                loans[place] = each
        return list(zip(phrases, guesses, loans, strict=True))

    @cached_property
    def _lending(self) -> Lending:
        told = np.flatnonzero(~self._thin)
        return Lending(self.texts, self.vectors, told if len(told) else None, search=self.search)

    def _missing(self, rows: NDArray[np.int64], guesses: list[list[Attribute]]) -> list[list[Attribute]]:
        """Return the guesses for columns in which the item has nothing."""
        table = self.catalog.table
        empty = {name: [_is_empty(value.as_py()) for value in table[name].take(rows)] for name in self.taxonomy.columns}
        return [[one for one in each if empty[one.column][place]] for place, each in enumerate(guesses)]

    def _reply(self, request: Request, told: tuple[list[Phrase], list[Attribute], list[Loan]]) -> Reply:
        phrases, guesses, loans = told
        row = self.catalog.ids.row(request.subject)
        if request.task == "summary":
            return self._summary(request, row, told)
        parts = [_part(guess.column, guess.value, "guess", guess.confidence) for guess in guesses]
        parts += [_part("keyphrase", one.words, "text", max(one.similarity, 0.0)) for one in phrases]
        parts += [_part("word", loan.word, "borrowed", loan.share) for loan in loans]
        parts = [part for part in parts if part["value"] and part["name"]][:_MOST_PARTS]
        if not parts:
            return Reply(request.key, error="there is nothing to extract: its text has too few words")
        lent = {part["value"] for part in parts if part["basis"] == "borrowed"}
        return Reply(request.key, _json({"attributes": parts}), borrowed=self._lenders(loans, lent))

    def _summary(self, request: Request, row: int, told: tuple[list[Phrase], list[Attribute], list[Loan]]) -> Reply:
        """Return title and first sentence, or title and whatever else is known, each with how sure it is."""
        phrases, guesses, loans = told
        item = self.catalog[request.subject]
        title = " ".join(item.title.split())
        description = " ".join(item.description.split())
        if description:
            first = description
            for sentence in _SENTENCE.split(description):
                if len(sentence) >= _SHORTEST_SUMMARY:
                    first = sentence
                    break
            said, sure, lent = ": ".join(filter(None, [title, first])), 1.0, set()
        else:
            words = [guess.value for guess in guesses] + [loan.word for loan in loans] or [one.words for one in phrases]
            said = ": ".join(filter(None, [title, ", ".join(words)]))
            sure = min([guess.confidence for guess in guesses] + [loan.share for loan in loans], default=1.0)
            lent = {loan.word for loan in loans}
        if len(said) < _SHORTEST_SUMMARY:
            return Reply(request.key, error="there is nothing to sum up: its text has too few words")
        text = _json({"summary": said[:_LONGEST_SUMMARY].strip(), "confidence": round(float(sure), 3)})
        return Reply(request.key, text, borrowed=self._lenders(loans, lent))

    def _lenders(self, loans: Sequence[Loan], words: set[str]) -> tuple[str, ...]:
        rows = dict.fromkeys(row for loan in loans if loan.word in words for row in loan.lenders)
        return tuple(self.catalog.ids[row] for row in rows)

    def __repr__(self) -> str:
        return f"Extractive({len(self.texts):,} items, {', '.join(self.parts)}; {self.taxonomy!r})"


def _titles(
    catalog: Catalog, columns: Sequence[str], texts: Sequence[str], encoder: TextEncoder, thin_words: int
) -> Embeddings | None:
    """Return vectors of titles alone where items with thin texts lack a category; None where none does."""
    thin = np.array([len(words_of(text)) < thin_words for text in texts])
    lacking = np.zeros(len(texts), dtype=bool)
    for name in columns:
        lacking |= np.array([_is_empty(value) for value in catalog.column(name)])
    if not columns or not (thin & lacking).any():
        return None
    return Embeddings(catalog.ids, encoder.encode(catalog.titles))


def _is_empty(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_empty, value))
    return value is None or not str(value).strip()


def _part(name: str, value: str, basis: str, confidence: float) -> dict[str, Any]:
    return {
        "name": name.strip()[:_LONGEST_NAME],
        "value": " ".join(value.split())[:_LONGEST_VALUE],
        "basis": basis,
        "confidence": round(min(max(float(confidence), 0.0), 1.0), 3),
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
