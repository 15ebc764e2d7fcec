"""What the service answers, and where.

::

    GET  /items/{id}                                        ItemAnswer
    GET  /items/{id}/similar?k&where&encoder=run|base       ItemsAnswer   near in vector space; score: cosine
    GET  /items/{id}/related?k&hops&relations               ItemsAnswer   tied in the graph; score: strength
    GET  /items/{id}/together?k                             ItemsAnswer   taken by the same people; score: cosine
    GET  /items/{id}/explain?user= | history=a,b            ExplainAnswer
    GET  /search?q&k&where&how=vectors|words|both           SearchAnswer
    GET  /suggest?q&k                                       SuggestAnswer titles that begin with or hold these letters
    GET  /graph/{id}?hops&k&relations                       GraphAnswer
    GET  /map                                               MapAnswer     all items in one answer; ETag, gzip
    GET  /map/items?rows=1,2,3                              MapItems      ids and titles of points of the map
    GET  /exposure?surface=                                 ExposureAnswer
    GET  /info                                              InfoAnswer
    POST /recommendations                                   RecommendAnswer
    POST /feedback                                          FeedbackAnswer
    POST /items                                             UpsertAnswer
    POST /admin/reload                                      ReloadAnswer
    GET  /health, /ready                                    HealthAnswer, ReadyAnswer
    GET  /metrics                                           text, for Prometheus
    GET  /, /page/...                                       the page (page/index.html) and its files

An id is one part of the path, percent-encoded (``encodeURIComponent``); one with a slash may be written either way, but
only ``%2F`` keeps an id that ends in a word such as ``/similar`` apart from a question. `where` is repeated, one
condition each, and all must hold: ``where=brand=Halcyon&where=price<20``. `relations` and `history` are lists with
commas; `history` may be repeated as well, so that an id with a comma in it can be said: ``history=a,b&history=c``.

What goes wrong is a `Problem` with a 4xx status: 400 a question that makes no sense, 401 no or a wrong key, 403 another
site's page asks, 404 an unknown id, 409 the run cannot answer this, 413 too large, 422 a value of the wrong type or
range, 429 too many questions, 503 too busy or not ready. Where the service has a key, send it as
``Authorization: Bearer KEY``; only ``/``, ``/page/...``, ``/health`` and ``/ready`` are open then.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Segment = Literal["head", "tail", "cold"]
Event = Literal["taken", "liked", "clicked", "viewed", "dismissed"]
Surface = Literal["all", "recommendations", "similar", "related", "together", "search"]
Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class Answer(BaseModel):
    """The common base of what is answered."""

    model_config = ConfigDict(extra="forbid")


class Question(BaseModel):
    """The common base of what is asked in a body: a misspelt key is told."""

    model_config = ConfigDict(extra="forbid")


class Problem(Answer):
    """What was wrong, in one sentence."""

    error: str = Field(examples=["no item has the id 'k99'; the closest are: k0, k1, k2"])
    closest: list[str] = Field([], description="The ids that look most like the one asked for.")
    request_id: str | None = Field(None, description="Find it in the log by this, where the fault is ours.")


class ItemAnswer(Answer):
    """One item."""

    item_id: str = Field(examples=["k0"])
    title: str = Field(description="The id where the title is empty.", examples=["Frying pan"])
    description: str = ""
    fields: dict[str, Any] = Field(description="All other columns that hold something.")
    segment: Segment | None = Field(description="None where the run has no interactions.")
    n_interactions: int = Field(ge=0, description="People who took it, by training.")
    upserted: bool = Field(False, description="Whether it came or changed through this service, after the run.")
    row: int | None = Field(None, description="Its point on the map; None for an item that is newer than the run.")


class ShownItem(Answer):
    """One item of a list."""

    item_id: str = Field(examples=["k1"])
    title: str = Field(examples=["Bread knife"])
    score: float = Field(description="Higher is better; what it is depends on the question.")
    segment: Segment | None = None
    n_interactions: int = 0
    why: str | None = Field(None, description="One short sentence, where there is something to say.")


class ItemsAnswer(Answer):
    """A list that belongs to an item, best first."""

    item_id: str
    items: list[ShownItem]


class SearchAnswer(Answer):
    """What was found for words.

    The score is the cosine by vectors, BM25 by words, and by both the sum of 1 / (60 + place) over the two rankings.
    """

    q: str
    how: Literal["vectors", "words", "both"]
    items: list[ShownItem]


class Suggestion(Answer):
    """One title that fits the letters typed so far."""

    item_id: str
    title: str
    segment: Segment | None = None


class SuggestAnswer(Answer):
    """Titles that begin with the letters, then those with a word that does, then those that hold them."""

    q: str
    items: list[Suggestion]


class Lender(Answer):
    """An item that lends collaborative signal, and its share of the attention."""

    item_id: str
    title: str
    share: float = Field(ge=0, le=1)


class Reason(Answer):
    """An item of the person's history that speaks for the one explained; `score` is what it brought."""

    item_id: str
    title: str
    score: float


class Reader(Answer):
    """A known person whom the item fits and who does not have it."""

    user: str
    score: float


class ExplainAnswer(Answer):
    """Why an item would be recommended.

    The three shares are of the absolute parts of the score and sum to 1, or are all 0 where nothing speaks for it.
    Without a user or a history they are those of the person whom it fits best.
    """

    item_id: str
    title: str
    user: str | None
    score: float
    own_share: float = Field(ge=0, le=1, description="What its own past said.")
    borrowed_share: float = Field(ge=0, le=1, description="What its semantic neighbours lent.")
    text_share: float = Field(ge=0, le=1, description="What the words said.")
    lenders: list[Lender]
    because: list[Reason]
    readers: list[Reader]


class GraphNode(Answer):
    """An item of the graph; `hops` is 0 for the one asked for."""

    item_id: str
    title: str
    segment: Segment | None
    community: int = Field(-1, description="-1 where the run knows of no communities.")
    hops: int
    weight: float = Field(description="Strength of the best way there, in (0, 1].")


class GraphEdge(Answer):
    """A tie between two of the nodes."""

    source: str
    target: str
    relation: str
    weight: float = Field(description="Strength, in (0, 1].")


class GraphAnswer(Answer):
    """What lies around an item."""

    item_id: str
    nodes: list[GraphNode]
    edges: list[GraphEdge]


class Column(Answer):
    """Numbers as bytes: base64 of little-endian `dtype`, one for each item.

    Positions are ``low + value / 65535 * (high - low)``; codes are places in `names`.
    """

    dtype: Literal["uint8", "uint16"]
    data: str
    low: float = 0.0
    high: float = 0.0
    names: list[str] = []


class MapAnswer(Answer):
    """Where every item lies in two dimensions. Code 65535 of a community stands for none."""

    n_items: int
    x: Column
    y: Column
    segment: Column
    community: Column
    kind: str = Field(description="How the places were found.", examples=["umap", "pca"])


class MapItem(Answer):
    """A point of the map."""

    row: int
    item_id: str
    title: str


class MapItems(Answer):
    """Some points of the map; rows that do not exist are left out."""

    items: list[MapItem]


class Shares(Answer):
    """Shares of the items shown, each in [0, 1]; all 0 where nothing was shown."""

    head: float
    tail: float
    cold: float


class ExposureAnswer(Answer):
    """What was shown over the last hour, and how evenly."""

    surface: Surface
    n_shown: int
    shares: Shares
    catalog: Shares = Field(description="The same shares of the catalogue itself.")
    coverage: float = Field(ge=0, le=1, description="Share of the catalogue that was shown at least once.")
    curve: list[tuple[float, float]] = Field(
        description="From (0, 0) to (1, 1): share of the catalogue, the most shown first; share of all shown it got."
    )
    gini: float = Field(ge=0, le=1, description="0: all items are shown alike; near 1: a few get everything.")


class ColumnInfo(Answer):
    """A column that `where` can ask for, and its most common values."""

    name: str
    kind: Literal["text", "number", "list", "flag", "date"]
    values: list[str] = Field([], description="The most common values of words and lists.")
    low: float | None = None
    high: float | None = None


class InfoAnswer(Answer):
    """What is served."""

    name: str
    version: str
    n_items: int
    n_people: int
    n_upserted: int = Field(description="Items that came or changed through this service.")
    n_feedback: int = Field(description="Events that came through this service.")
    models: list[str]
    encoders: list[Literal["run", "base"]]
    encoder: str = Field(description="The name of the model behind the vectors.")
    runtime: str
    dim: int
    segments: dict[Segment, int]
    relations: list[str]
    hows: list[Literal["vectors", "words", "both"]]
    languages: dict[str, int] = Field({}, description="Items of each language, where a column says it.")
    columns: list[ColumnInfo]
    communities: int = Field(description="0 until the map has been drawn.")
    max_k: int
    loaded: str = Field(description="When the run was loaded, UTC.")


class RecommendQuestion(Question):
    """Give `user` or `history`, not both."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user": "u00", "k": 5}, {"history": ["k0", "k1"], "k": 5}]}
    )

    user: Id | None = Field(None, description="A person of the run, or one who has given feedback.")
    history: list[Id] | None = Field(None, max_length=10_000, description="Items that one person took, latest last.")
    k: int = Field(20, ge=1, description="How many; more than the service's most counts as that.")
    model: str = Field("hybrid", description="One of the models that /info names.")
    candidates: list[Id] | None = Field(None, max_length=100_000, description="The only items that may be shown.")
    where: list[str] | None = Field(None, max_length=20, description="Conditions on columns; all must hold.")


class RecommendAnswer(Answer):
    """Items for a person, best first; what the person has or has dismissed is not among them."""

    user: str | None
    model: str
    from_popularity: bool = Field(description="True for a person without any history: what most people take.")
    items: list[ShownItem]


class FeedbackQuestion(Question):
    """What a person did.

    `taken`, `liked` and `clicked` lengthen the history; `dismissed` hides the item from that person and takes it out of
    the history; `viewed` is kept and changes nothing.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user": "u00", "item_id": "g0", "event": "taken"}]}
    )

    user: Id
    item_id: Id
    event: Event = "taken"
    time: float | None = Field(
        None, ge=0, le=32_503_680_000, allow_inf_nan=False, description="Seconds since 1970; now if left out."
    )


class FeedbackAnswer(Answer):
    """The event is on disk and counts from now on."""

    event_id: int
    n_events: int = Field(description="Events of this person that came through this service.")


class ItemQuestion(Question):
    """A new item, or the new words of one; fields that are left out are empty from then on."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"item_id": "new-1", "title": "Copper kettle", "fields": {"brand": "Halcyon"}}]
        },
    )

    item_id: Id
    title: str = Field("", max_length=10_000)
    description: str = Field("", max_length=1_000_000)
    fields: dict[str, Any] = Field({}, description="Other columns of the catalogue.")


class UpsertQuestion(Question):
    """One or several items."""

    items: list[ItemQuestion] = Field(min_length=1, max_length=1000)


class UpsertAnswer(Answer):
    """The items are on disk and can be found."""

    n_new: int
    n_changed: int
    searchable: bool
    scored: bool = Field(description="False where recommending them follows in a moment, or the run has no people.")
    without_text: list[str] = Field([], description="Items without a word: kept, and near to nothing.")


class ReloadAnswer(Answer):
    """Which run is served now."""

    reloaded: bool = Field(description="False where what lies on disk is what is served already.")
    run: str
    seconds: float


class HealthAnswer(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyAnswer(Answer):
    """Whether questions are answered, and from what."""

    ready: bool
    run: str = Field(description="Digest of the run that is served.")
    loaded: str
    newer: str | None = Field(None, description="Why a newer run on disk is not served yet.")
