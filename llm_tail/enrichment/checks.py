"""What an answer must contain, beside its form: the item's own matter, in the right language, nothing forbidden."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from llm_tail.enrichment.backends import Request
from llm_tail.enrichment.schema import Answer, Attribute, Attributes, Intents, Profile, Questions, Relations, Summary
from llm_tail.errors import DataError

GUESSED = 0.5  # most that may be believed of what calls itself stated and is not found in the text
LONGEST_RUN = 8  # words in a row that count as copied
MOST_COPIED = 0.7  # share of an answer's words
SHORTEST = 8  # words of a summary; two Han characters count as one
# Small words that other languages do not have.
_ENGLISH = re.compile(
    r"\b(the|of|and|to|is|for|with|that|who|from|by|it|its|are|this|not|be|or|their|they|will|which)\b", re.I
)
_LETTER = re.compile(r"[^\W\d_]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_TOKEN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")

_FORBIDDEN = {
    "a price": (
        r"[$€£¥]\s?\d|\d\s?[$€£¥]|\b\d[\d.,]*\s?(usd|eur|gbp|dollars?|euros?|pounds sterling|yuan|rmb)\b"
        r"|\d\s?(元|块钱|人民币|美元|欧元)"
    ),
    "a rating": (
        r"\b\d([.,]\d)?\s?(/\s?(5|10)\b|stars?\b|out of (5|10|five|ten)\b)|\b(five|four)[- ]star\b"
        r"|\b\d[\d,.]*k?\+? (reviews|ratings|copies sold|units sold)\b"
        r"|评分|[\d一二三四五]\s?星(级?好评|推荐)|\d\s?(条|个)评[价论]"
    ),
    "an id": r"\bisbn\b|\b97[89][- ]?\d[\d -]{8,}\d\b|\bB0[0-9A-Z]{8}\b|\basin\b|\bsku\b",
    "a link": r"https?://|\bwww\.|\b[\w-]+\.(com|org|net|cn)\b",
}
_BOILERPLATE = (
    r"\bas an? (ai|artificial|large|language)\b|\blanguage model\b.{0,40}\b(cannot|can't|unable)\b"
    r"|\bi('m| am) (sorry|unable|an ai)\b|\bi (cannot|can't) (help|assist|provide|comply|fulfil)"
    r"|\b(ignore|disregard|forget) (all|any|the|my|your|previous|above|prior|everything)\b.{0,40}"
    r"\b(instructions?|rules?|prompts?|above|before)\b|\bsystem prompt\b"
    r"|\blorem ipsum\b|\bno (description|information|data|summary) (is )?(available|provided|given)\b|\bn/a\b"
    r"|\b(something|must[- ]have|perfect|great)( \w+){0,2} for (everyone|anyone|any occasion)\b"
    r"|</?(data|candidates|history)>"
    r"|作为(一个|一名)?.{0,6}(人工智能|语言模型|ai)|(很)?抱歉，?(我)?(无法|不能)|无法(提供|回答|完成)"
    r"|忽略(以上|之前|上述|前面)|暂无(描述|简介|信息)|没有(提供)?(任何)?(描述|信息)"
)
Part = TypeVar("Part")


def check(answer: Answer, request: Request, *, extracts: bool = False) -> Answer:
    """Return the answer with what cannot stand taken out or marked as a guess.

    Parameters
    ----------
    answer : Answer
        As `llm_tail.enrichment.schema.parse` gives it.
    request : Request
        What was asked, with all that the answer may speak of.
    extracts : bool
        Whether the answer was taken from texts, so that its words are copies by right, in whatever language the texts
        are.

    Raises
    ------
    DataError
        If it has to be set aside; the message says why, fit to be said to a model.

    Notes
    -----
    Looked for, in this order: forbidden matter (prices, ratings, ids, links), boilerplate and refusals, labels that
    were not given, words too few, another language, a copy of the input. Properties that call themselves stated are
    looked up in the text: where they are not found they become guesses with a confidence of at most one half. A list
    loses single parts; it is set aside where none is left. About 100 microseconds an answer.
    """
    code = _code(request.subject)

    def forbids(text: str) -> str:
        return _forbidden(text, code)

    checked = _parts(answer, request, forbids, extracts=extracts)
    text = words_of(checked)
    if not extracts and text:
        _in_language(text, request.language)
    if not extracts and isinstance(checked, (Summary, Profile)):
        _own_words(text, request)
    return checked


def words_of(answer: Answer) -> str:
    """Return all words of an answer that are free, one part a line; empty where it has no parts."""
    if isinstance(answer, Attributes):
        return "\n".join(f"{one.name} {one.value}" for one in answer.attributes)
    if isinstance(answer, Summary):
        return answer.summary
    if isinstance(answer, Intents):
        return "\n".join(f"{one.who} {one.when}" for one in answer.intents)
    if isinstance(answer, Questions):
        return "\n".join(answer.questions)
    if isinstance(answer, Relations):
        return "\n".join(one.reason for one in answer.relations)
    return "\n".join([answer.profile, *answer.likes]) if isinstance(answer, Profile) else ""


def _parts(answer: Answer, request: Request, forbids: Callable[[str], str], *, extracts: bool) -> Answer:
    """Return the answer without the parts that cannot stand."""
    if isinstance(answer, Attributes):
        kept = _without(answer.attributes, lambda one: forbids(f"{one.name} {one.value}"))
        if extracts:
            return Attributes(attributes=kept)
        text = _tokens(_text(request.fields))
        return Attributes(
            attributes=[_grounded(one, text) for one in _distinct(kept, lambda one: (one.name, one.value))]
        )
    if isinstance(answer, Intents):
        kept_intents = _without(answer.intents, lambda one: forbids(f"{one.who} {one.when}"))
        return Intents(intents=_distinct(kept_intents, lambda one: (one.who, one.when)))
    if isinstance(answer, Questions):
        title = _tokens(str(request.fields.get("title", "")))
        asked = _without(answer.questions, lambda one: forbids(one) or _names(one, title))
        return Questions(questions=_distinct(asked, str.casefold))
    if isinstance(answer, Relations):
        labels = {near.label for near in request.near}
        ties = _without(
            answer.relations,
            lambda one: "" if one.item in labels else f"{one.item!r}, which is no label of a candidate",
        )
        ties = _without(ties, lambda one: forbids(one.reason))
        return Relations(relations=_distinct(ties, lambda one: one.item))
    if wrong := forbids(words_of(answer)):
        raise DataError(f"the answer holds {wrong}")
    return answer


def _without(parts: list[Part], wrong: Callable[[Part], str]) -> list[Part]:
    """Return the parts with nothing wrong; an error where there were some and none is left."""
    found = [wrong(part) for part in parts]
    kept = [part for part, problem in zip(parts, found, strict=True) if not problem]
    if parts and not kept:
        raise DataError(f"the answer holds {next(filter(None, found))}")
    return kept


def _distinct(parts: Iterable[Part], key: Callable[[Part], Any]) -> list[Part]:
    return list({key(part): part for part in reversed(list(parts))}.values())[::-1]


def _forbidden(text: str, code: str) -> str:
    """Return what a text holds that it must not, in words; empty where it is clean."""
    for name, pattern in _FORBIDDEN.items():
        if found := _pattern(pattern).search(text):
            return f"{name} ({found[0].strip()!r})"
    if code and code in text.casefold():
        return f"an id ({code!r})"
    found = _pattern(_BOILERPLATE).search(text)
    return f"words that fit any item, or a refusal ({found[0].strip()!r})" if found else ""


def _code(subject: str) -> str:
    """Return an id to look for; empty where it may as well be a word."""
    return subject.casefold() if len(subject) >= 5 and any(c.isdigit() for c in subject) else ""


def _names(question: str, title: list[str]) -> str:
    """Say that a question holds the whole title, where that has at least two words."""
    asked = _tokens(question)
    n = len(title)
    there = n > 1 and any(asked[i : i + n] == title for i in range(len(asked) - n + 1))
    return "a question that names the title" if there else ""


def _grounded(one: Attribute, text: list[str]) -> Attribute:
    """Return the property as it is, or as a guess where the text does not state it."""
    if one.basis == "guess":
        return one
    known = {_stem(word) for word in text}
    words = [_stem(word) for word in _tokens(one.value)]
    if one.basis == "text" and words and 2 * sum(word in known for word in words) > len(words):
        return one
    return one.model_copy(update={"basis": "guess", "confidence": min(one.confidence, GUESSED)})


def _in_language(text: str, language: str) -> None:
    letters = len(_LETTER.findall(text))
    if letters == 0:
        raise DataError("the answer holds no words")
    if language == "zh":
        if len(_HAN.findall(text)) < 0.3 * letters:
            raise DataError("the answer is not in Chinese")
        return
    if len(_LATIN.findall(text)) < 0.7 * letters:
        raise DataError("the answer is not in English")
    n_words = len(_tokens(text))
    sentences = "\n" not in text  # lists of short phrases may do without small words
    if sentences and n_words >= 12 and len(_ENGLISH.findall(text)) < 0.08 * n_words:
        raise DataError("the answer is not in English")


def _own_words(text: str, request: Request) -> None:
    """Refuse a text of too few words, and one that repeats the input."""
    words = [word.casefold() for word in _tokens(text)]
    n_han = sum(bool(_HAN.match(word)) for word in words)
    if len(words) - n_han / 2 < SHORTEST:
        raise DataError(f"the answer has {len(words)} words, expected at least {SHORTEST} on this item")
    run = 2 * LONGEST_RUN if 2 * n_han > len(words) else LONGEST_RUN
    given = [word.casefold() for word in _tokens(_text(request.fields, *(near.fields for near in request.near)))]
    runs = {tuple(given[i : i + run]) for i in range(len(given) - run + 1)}
    copied = [False] * len(words)
    for i in range(len(words) - run + 1):
        if tuple(words[i : i + run]) in runs:
            copied[i : i + run] = [True] * run
    if sum(copied) > MOST_COPIED * len(words):
        raise DataError("the answer copies the data; expected other words")


def _text(*fields: Mapping[str, Any]) -> str:
    """Return all values as one text."""
    return " ".join(str(value) for one in fields for value in one.values())


def _tokens(text: str) -> list[str]:
    """Return words, and Han characters one by one."""
    return _TOKEN.findall(text.casefold())


def _stem(word: str) -> str:
    """Return a word without its ending: enough to find *pans* by *pan*."""
    return word if len(word) < 4 else re.sub(r"(ies|es|s|ing|ed|ly|y|e)$", "", word)


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.I)
