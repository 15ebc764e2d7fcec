"""enrich: asks what is not answered yet, checks what comes, keeps everything, and puts the answers together.

Each question goes through the cache: what was answered before costs nothing, what breaks form or content is asked for
once more with the complaint, and what is wrong then is set aside with its reason, for a person to review. A stop at any
point loses nothing that came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_tail.config import EnrichmentConfig
from llm_tail.data.catalog import Catalog
from llm_tail.enrichment.asking import Asker
from llm_tail.enrichment.backends import Backend, Reply, Request
from llm_tail.enrichment.cache import AnswerCache, Kept, Spent
from llm_tail.enrichment.checks import check
from llm_tail.enrichment.interrupts import gentle_interrupts
from llm_tail.enrichment.limits import Ledger
from llm_tail.enrichment.provenance import History
from llm_tail.enrichment.result import Enrichment, Generated, Provenance
from llm_tail.enrichment.schema import (
    Answer,
    Attributes,
    Basis,
    Intents,
    Profile,
    Questions,
    Relations,
    Summary,
    parse,
)
from llm_tail.errors import DataError, UnfinishedError
from llm_tail.progress import Bar

SAME_TEXT = 3  # items with different words that got the same summary: it says nothing of any of them


@dataclass(frozen=True)
class Outcome:
    """What came of an enrichment.

    Parameters
    ----------
    enrichment : Enrichment
        The generated fields that may be used.
    n_asked : int
        Questions there are.
    n_kept, n_aside, n_failed, n_open : int
        Answers in use, set aside (rejected ones too), failed by the server, and not asked yet.
    n_new : int
        Replies that came in this run.
    n_unsure : int
        Requests that were under way when a run was killed and were sent again.
    spent : Spent
        What all answers have cost, those of stopped runs included.
    told : str
        Tokens and money in words.
    """

    enrichment: Enrichment
    n_asked: int
    n_kept: int
    n_aside: int
    n_failed: int
    n_open: int
    n_new: int
    n_unsure: int
    spent: Spent
    told: str

    @property
    def complete(self) -> bool:
        """Whether every question has an answer, good or bad."""
        return not (self.n_failed or self.n_open)

    def __str__(self) -> str:
        parts = [f"{self.n_kept:,} of {self.n_asked:,} answers in use, {self.n_new:,} new"]
        for n, words in (
            (self.n_aside, "set aside (llm-tail review)"),
            (self.n_failed, "failed at the server"),
            (self.n_open, "not asked yet"),
            (self.n_unsure, "sent again after a kill"),
        ):
            if n:
                parts.append(f"{n:,} {words}")
        return ", ".join([*parts, self.told] if self.spent.tokens else parts)


def enrich(
    catalog: Catalog,
    backend: Backend,
    config: EnrichmentConfig | None = None,
    *,
    folder: str | Path,
    candidates: NDArray[np.int64] | None = None,
    histories: Sequence[History] = (),
    rows: NDArray[np.int64] | None = None,
) -> Outcome:
    """Ask a backend for words about items; only for what the folder does not hold yet.

    Parameters
    ----------
    catalog : Catalog
        The items as the files have them.
    backend : Backend
        Who answers.
    config : EnrichmentConfig, optional
        What is asked, and what it may cost.
    folder : path
        Of the cache of answers.
    candidates : array of int64, shape (n_items, k), optional
        Rows of near items for relations, -1 where there are fewer.
    histories : sequence of History
        Of training, for profiles; see `llm_tail.enrichment.provenance.training_histories`.
    rows : array of int64, shape (n_rows,), optional
        Which items, the most rewarding first; all if left out.

    Returns
    -------
    Outcome

    Raises
    ------
    UnfinishedError
        If the budget is spent before all is asked and ``when_spent`` is ``stop``, if batch files wait for their
        answers, or another process asks in the same folder.
    BackendError, ConfigError, DataError
        If nothing could be asked; then nothing was paid for.

    Notes
    -----
    Three passes over the questions (what is open, what was wrong, what is there), each about 0.2 ms a question beside
    the asking itself. Memory: the generated parts, about 300 bytes each.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from llm_tail.embedding.tfidf import TfidfEncoder
    >>> from llm_tail.embedding.text import ItemText
    >>> from llm_tail.enrichment.extractive import Extractive
    >>> books = [("emma", "Emma", "A match-maker errs in a quiet village."), ("dune", "Dune", "A planet of spice.")]
    >>> catalog = Catalog.from_items([{"item_id": i, "title": t, "description": d} for i, t, d in books])
    >>> backend = Extractive.learn(catalog, TfidfEncoder.fit(ItemText().texts(catalog)))
    >>> with TemporaryDirectory() as folder:
    ...     outcome = enrich(catalog, backend, EnrichmentConfig(tasks=["summary"], domain="books"), folder=folder)
    >>> outcome.enrichment
    Enrichment(2 items, summary: 2)
    """
    config = config or EnrichmentConfig()
    asker = Asker(catalog, config, backend, candidates=candidates, histories=histories, rows=rows)
    with AnswerCache(folder) as cache:
        cache.lock()
        work = _Work(asker, backend, config, cache)
        work.ask()
        outcome = work.collect()
    if not outcome.complete and config.when_spent == "stop":
        raise UnfinishedError(_unfinished(outcome, work.limit if work.spent_out else ""))
    return outcome


def _unfinished(outcome: Outcome, limit: str) -> str:
    """Return why an enrichment has stopped before its end, and how to go on."""
    n_missing, use = outcome.n_open + outcome.n_failed, 'or use what is there with [enrichment] when_spent = "go-on"'
    if limit:
        return (
            f"the budget is spent: {outcome.told} for {outcome.n_asked - n_missing:,} of {outcome.n_asked:,} "
            f"questions. The answers are kept; raise [enrichment] {limit} and give the same command to go on, {use}"
        )
    return (
        f"{n_missing:,} of {outcome.n_asked:,} questions have no answer, since the server failed; the others are kept "
        f"({outcome.told}). Give the same command to ask again, {use}"
    )


@dataclass
class _Work:
    """One run over the questions."""

    asker: Asker
    backend: Backend
    config: EnrichmentConfig
    cache: AnswerCache
    n_new: int = 0
    n_unsure: int = 0
    n_wrong: int = 0
    spent_out: bool = False
    _under_way: dict[str, tuple[Request, bool]] = field(default_factory=dict)  # with whether it mends an answer

    _interrupted: Callable[[], bool] = field(default=lambda: False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.config, self.cache.spent())

    @property
    def limit(self) -> str:
        """The setting that stands in the way."""
        names = [name for name in ("max_money", "max_tokens") if getattr(self.config, name) is not None]
        return " or ".join(names)

    def ask(self) -> None:
        """Ask what is open, then once more for what was wrong."""
        n_open = self._count()
        if n_open + self.n_wrong == 0:
            return
        first = next(self._open(), None)
        if first is not None and self.backend.costs and not self.ledger.has_room(first):
            self.spent_out = True  # said before anything is asked of anybody
            return
        self.backend.check()
        with gentle_interrupts() as self._interrupted, Bar("enriching", n_open + self.n_wrong) as bar:
            self._run(lambda: ((request, False) for request in self._open()), bar, n_open)
            if self.n_wrong and not self.spent_out and not self._interrupted():
                self._run(lambda: ((request, True) for request in self._wrong()), bar, self.n_wrong)

    def _count(self) -> int:
        """Return how many questions are open; count those answered wrongly, and those that a kill left unsure."""
        open_keys, wrong, unsure = set(), set(), set()
        for request in self.asker:
            row = self.cache.get(request.key)
            if _is_open(row):
                open_keys.add(request.key)
            if _is_wrong(row):
                wrong.add(request.key)
            if row is not None and row.state in ("sent", "mending"):
                unsure.add(request.key)
        self.n_wrong, self.n_unsure = len(wrong), len(unsure)
        return len(open_keys)

    def _run(self, source: Callable[[], Iterator[tuple[Request, bool]]], bar: Bar, n_all: int) -> None:
        """Ask a source's questions; again where the worst case filled the budget and the replies took less of it."""
        n_left, n_before = n_all, -1
        while n_before < self.n_new:
            self.spent_out, n_before = False, self.n_new
            for reply in self.backend.answer(self._fed(source())):
                request, mends = self._under_way.pop(reply.key)
                money = self.ledger.comes(reply)
                self._judge(request, replace(reply, text=_writable(reply.text)), money, mends)
                self.n_new += 1
                n_left -= 1
                bar.advance(note=self.ledger.told(n_left))
            if not self.spent_out:
                return

    def _fed(self, source: Iterator[tuple[Request, bool]]) -> Iterator[Request]:
        """Yield requests as long as the budget lasts, each written down before it leaves."""
        for request, mends in source:
            if self._interrupted():
                return
            if request.key in self._under_way:
                continue  # the same words under another id: one answer for both
            if self.backend.costs and not self.ledger.has_room(request):
                self.spent_out = True
                return
            prompt = self.asker.prompts[request.task].identity
            self.cache.sent(request, prompt=prompt, model=self.backend.model, mends=mends)
            self.ledger.leaves(request)
            self._under_way[request.key] = (request, mends)
            yield request

    def _judge(self, request: Request, reply: Reply, money: float, mends: bool) -> None:
        """Keep a reply and what is thought of it."""
        row = self.cache.get(request.key)
        if row is not None and row.verdict == "ask-again" and not reply.passing:
            self.cache.undecide(request.key)
        if reply.error and reply.passing and mends and row is not None:
            self.cache.judge(request.key, "bad", row.reason)  # what was wrong before stays to be mended
        elif reply.error:
            self.cache.answered(reply, "failed" if reply.passing else "aside", reply.error, money)
        else:
            try:
                check(parse(request.task, reply.text), request, extracts=self.backend.extracts)
                self.cache.answered(reply, "kept", "", money)
            except DataError as error:
                hopeless = mends or self.backend.extracts
                self.n_wrong += not hopeless
                self.cache.answered(reply, "aside" if hopeless else "bad", str(error), money)

    # ---- which questions

    def _open(self) -> Iterator[Request]:
        """Yield what has never been answered, or is to be asked again."""
        for request in self.asker:
            row = self.cache.get(request.key)
            if _is_open(row):
                yield replace(self.asker.rendered(request), attempt=_attempt(row))

    def _wrong(self) -> Iterator[Request]:
        """Yield what was answered wrongly once, with the complaint."""
        for request in self.asker:
            row = self.cache.get(request.key)
            if row is not None and _is_wrong(row):
                complaint = self.asker.prompts[request.task].complaint(row.text, row.reason)
                request = self.asker.rendered(request)
                yield replace(request, messages=(*request.messages, *complaint), attempt=_attempt(row))

    # ---- what came of it

    def collect(self) -> Outcome:
        """Put together what may be used of all that is in the cache."""
        parts: list[Generated] = []
        found: dict[str, int] = defaultdict(int)
        repeated = self._repeated()
        for request in self.asker:
            found["asked"] += 1
            row = self.cache.get(request.key)
            answer, reviewed = self._usable(request, row, repeated)
            if answer is not None:
                found["kept"] += 1
                borrowed = row.borrowed if row is not None else ()
                parts += parts_of(answer, request, self.asker.provenance(request, borrowed, reviewed))
            elif row is None or row.state in ("sent", "mending", "bad"):
                found["open"] += 1
            else:
                found["failed" if row.state == "failed" else "aside"] += 1
        return Outcome(
            Enrichment.from_parts(parts),
            n_asked=found["asked"],
            n_kept=found["kept"],
            n_aside=found["aside"],
            n_failed=found["failed"],
            n_open=found["open"],
            n_new=self.n_new,
            n_unsure=self.n_unsure,
            spent=self.cache.spent(),
            told=self.ledger.told(),
        )

    def _usable(self, request: Request, row: Kept | None, repeated: set[str]) -> tuple[Answer | None, str]:
        """Return the answer that may be used, None where there is none, and what a person made of it."""
        if row is None or row.verdict == "reject":
            return None, ""
        try:
            if row.verdict == "edit":
                return parse(request.task, row.edited), "edited"
            if row.verdict == "accept":
                return parse(request.task, row.text), "accepted"
            if row.state != "kept":
                return None, ""
            if request.key in repeated:
                raise DataError(f"the same text came for {SAME_TEXT} or more items with different words")
            return check(parse(request.task, row.text), request, extracts=self.backend.extracts), ""
        except DataError as error:  # the rules have become stricter since, or the text is like too many others
            self.cache.judge(row.key, "aside", str(error))
            return None, ""

    def _repeated(self) -> set[str]:
        """Return the keys of summaries that several items with different words have got."""
        if self.backend.extracts or "summary" not in self.asker.tasks:
            return set()
        keys: dict[str, set[str]] = defaultdict(set)
        for row in self.cache.find(state="kept", task="summary"):
            keys[row.text.casefold()].add(row.key)  # equal words share a key, so that keys are different words
        return {key for same in keys.values() if len(same) >= SAME_TEXT for key in same}


def _writable(text: str) -> str:
    """Return a text without halves of characters, which JSON may hold and no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_open(row: Kept | None) -> bool:
    if row is None or row.verdict == "ask-again":
        return True
    return not row.verdict and row.state in ("sent", "failed")


def _is_wrong(row: Kept | None) -> bool:
    return row is not None and not row.verdict and row.state in ("bad", "mending")


def _attempt(row: Kept | None) -> int:
    """Return which attempt comes next: a new one only where the last was answered."""
    if row is None:
        return 1
    return max(row.n_asked, 1) if row.state in ("sent", "mending", "failed") else row.n_asked + 1


def forecast(
    catalog: Catalog,
    backend: Backend,
    config: EnrichmentConfig,
    *,
    folder: str | Path,
    candidates: NDArray[np.int64] | None = None,
    histories: Sequence[History] = (),
    rows: NDArray[np.int64] | None = None,
) -> tuple[int, int, int, float]:
    """Return what an `enrich` with the same arguments would send, and ask nobody.

    Returns
    -------
    n_open : int
        Questions without an answer.
    tokens_in, tokens_out : int
        At most, by the bytes of the prompts and the longest answers.
    money : float
        What these would cost.

    See `enrich` for the arguments.
    """
    asker = Asker(catalog, config, backend, candidates=candidates, histories=histories, rows=rows)
    sums = [0, 0, 0]
    with AnswerCache(folder) as cache:
        work = _Work(asker, backend, config, cache)
        seen = set()
        for request in work._open():
            if request.key not in seen:
                seen.add(request.key)
                sums = [a + b for a, b in zip(sums, (1, *work.ledger.estimate(request)), strict=True)]
    return sums[0], sums[1], sums[2], work.ledger.prices.money(sums[1], sums[2])


def parts_of(answer: Answer, request: Request, provenance: Provenance) -> list[Generated]:
    """Return an answer as single parts, with labels of candidates turned into ids."""

    def part(value: str, confidence: float, basis: Basis, name: str = "", target: str = "") -> Generated:
        return Generated(request.subject, request.task, value, name, target, confidence, basis, provenance)

    if isinstance(answer, Attributes):
        return [part(one.value, one.confidence, one.basis, one.name) for one in answer.attributes]
    if isinstance(answer, Summary):
        return [part(answer.summary, answer.confidence, "borrowed" if provenance.borrowed else "text")]
    if isinstance(answer, Intents):
        return [part(f"{one.who}, {one.when}", one.confidence, "guess") for one in answer.intents]
    if isinstance(answer, Questions):
        return [part(question, 1.0, "guess") for question in answer.questions]
    if isinstance(answer, Relations):
        ids = {near.label: near.item_id for near in request.near}
        ties = [one for one in answer.relations if one.item in ids]
        return [part(one.reason, one.confidence, "guess", one.kind, ids[one.item]) for one in ties]
    if isinstance(answer, Profile):
        likes = [part(like, answer.confidence, "guess", "like") for like in answer.likes]
        return [part(answer.profile, answer.confidence, "guess"), *likes]
    return []
