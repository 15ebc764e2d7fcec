"""Routes about items, and what is told about them."""

from __future__ import annotations

import gzip
import hashlib
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from llm_tail.data.catalog import Item
from llm_tail.errors import DataError
from llm_tail.service import answers, asking
from llm_tail.service.gate import SLASH
from llm_tail.service.problems import RESPONSES, reply
from llm_tail.service.service import Service

router = APIRouter(responses=RESPONSES)

PathId = Annotated[str, Path(description="The id of an item, percent-encoded.", examples=["k0"], max_length=2000)]
HowMany = Annotated[int, Query(ge=1, description="How many; more than the service's most counts as that.")]
Where = Annotated[
    list[str] | None,
    Query(description="A condition on a column; all must hold.", max_length=20, examples=[["brand=Halcyon"]]),
]
Relations = Annotated[str, Query(description="Names of relations with commas between; all if empty.", max_length=1000)]
Hops = Annotated[int, Query(ge=1, le=5, description="Steps to go at most.")]
MOST_ROWS = 5000
MOST_DEEP = 8


def service_of(request: Request) -> Service:
    """Return what the application serves from."""
    service: Service = request.app.state.service
    return service


def own_id(item_id: str) -> str:
    """Return an id as it was meant: encoded slashes have come through the router under another sign."""
    return item_id.replace(SLASH, "/")


def names_of(text: str) -> list[str]:
    """Return the names in a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


async def listed(request: Request, surface: str, item_id: str, ask: Any) -> Response:
    """Answer with a list that belongs to an item, and count what is shown."""
    service = service_of(request)
    items = await service.work(ask)
    service.exposure.add(surface, (one["item_id"] for one in items))
    return reply({"item_id": item_id, "items": items})


# Those with a word behind the id come first: the last takes everything that is left for an id.


@router.get("/items/{item_id:path}/similar", response_model=answers.ItemsAnswer, tags=["items"])
async def similar(
    request: Request, item_id: PathId, k: HowMany = 10, where: Where = None, encoder: Literal["run", "base"] = "run"
) -> Response:
    """Return the items nearest to an item in the space of the encoder; the score is the cosine."""
    run, name, most = service_of(request).run, own_id(item_id), service_of(request).settings.max_k
    base = encoder == "base"
    return await listed(
        request, "similar", name, lambda: asking.similar(run, name, min(k, most), where=where or (), base=base)
    )


@router.get("/items/{item_id:path}/related", response_model=answers.ItemsAnswer, tags=["items"])
async def related(
    request: Request, item_id: PathId, k: HowMany = 10, hops: Hops = 1, relations: Relations = ""
) -> Response:
    """Return the items tied to an item in the graph, and by what; the score is the strength of the tie."""
    run, name, most = service_of(request).run, own_id(item_id), service_of(request).settings.max_k
    return await listed(
        request, "related", name, lambda: asking.related(run, name, min(k, most), hops, names_of(relations))
    )


@router.get("/items/{item_id:path}/together", response_model=answers.ItemsAnswer, tags=["items"])
async def together(request: Request, item_id: PathId, k: HowMany = 10) -> Response:
    """Return the items that the same people took; the score is the cosine of who took them."""
    run, name, most = service_of(request).run, own_id(item_id), service_of(request).settings.max_k
    return await listed(request, "together", name, lambda: asking.together(run, name, min(k, most)))


@router.get("/graph/{item_id:path}", response_model=answers.GraphAnswer, tags=["items"])
async def around(
    request: Request, item_id: PathId, k: HowMany = 20, hops: Hops = 1, relations: Relations = ""
) -> Response:
    """Return an item, the items tied to it, and all ties among these."""
    service, name = service_of(request), own_id(item_id)
    run, most = service.run, service.settings.max_k
    return reply(await service.work(lambda: asking.around(run, name, min(k, most), hops, names_of(relations))))


@router.get("/search", response_model=answers.SearchAnswer, tags=["finding"])
async def search(
    request: Request,
    q: Annotated[str, Query(description="Any words.", max_length=10_000, examples=["something to cut bread"])],
    k: HowMany = 10,
    where: Where = None,
    how: Literal["vectors", "words", "both"] = "both",
) -> Response:
    """Return the items that some words describe: by meaning, by the words themselves, or by both."""
    service = service_of(request)
    if not q.strip():
        raise DataError("an empty text is near nothing; give some words")
    run, most = service.run, min(k, service.settings.max_k)
    vector = None if how == "words" else await service.vector(run, q)
    items = await service.work(lambda: asking.search(run, q, vector, most, where=where or (), how=how))
    service.exposure.add("search", (one["item_id"] for one in items))
    return reply({"q": q, "how": how, "items": items})


@router.get("/suggest", response_model=answers.SuggestAnswer, tags=["finding"])
async def suggest(
    request: Request,
    q: Annotated[str, Query(description="The letters typed so far.", max_length=200, examples=["kni"])],
    k: HowMany = 8,
) -> Response:
    """Return titles that begin with the letters, then those with a word that does, then those that hold them."""
    service = service_of(request)
    run, most = service.run, service.settings.max_k
    return reply({"q": q, "items": await service.work(lambda: asking.suggest(run, q, min(k, most)))})


@router.get("/map", response_model=answers.MapAnswer, tags=["map"])
async def whole_map(request: Request) -> Response:
    """Return where every item of the run lies on the map, in one answer; ask again with If-None-Match."""
    service = service_of(request)
    run = service.run
    packed, tag = await service.work(
        lambda: run.once(f"map {run.places.kind}", lambda: _packed(run.places.answer(run.segments)))
    )
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if tag in [part.strip() for part in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(gzip.decompress(packed), headers=headers, media_type="application/json")
    return Response(packed, headers={**headers, "Content-Encoding": "gzip"}, media_type="application/json")


def _packed(value: Any) -> tuple[bytes, str]:
    body = orjson.dumps(value)
    return gzip.compress(body, compresslevel=5, mtime=0), f'"{hashlib.sha256(body).hexdigest()[:16]}"'


@router.get("/map/items", response_model=answers.MapItems, tags=["map"])
async def map_items(
    request: Request,
    rows: Annotated[str, Query(description="Rows with commas between.", max_length=50_000, examples=["0,1,2"])],
) -> Response:
    """Return ids and titles of some points of the map; rows that do not exist are left out."""
    run, numbers = service_of(request).run, names_of(rows)
    if len(numbers) > MOST_ROWS or not all(x.isascii() and x.isdecimal() and len(x) < 12 for x in numbers):
        raise DataError(f"rows is a list of at most {MOST_ROWS:,} whole numbers with commas, such as 0,1,2")
    found = [int(x) for x in numbers if int(x) < len(run.ids)]
    return reply({"items": [{"row": n, "item_id": run.ids[n], "title": run.card(run.ids[n]).title} for n in found]})


@router.post("/items", response_model=answers.UpsertAnswer, tags=["changing"])
async def upsert(request: Request, body: answers.UpsertQuestion) -> Response:
    """Add items, or give items other words; they are on disk and can be found when the answer comes.

    What is new is recommended as soon as the hybrid has taken it in. What the run has already is found by its new words
    at once, and recommended by the old ones until the next run.
    """
    items = [
        Item(
            asking.checked(one.item_id),
            asking.checked(one.title),
            asking.checked(one.description),
            {asking.checked(key): asking.plain(value, MOST_DEEP) for key, value in one.fields.items()},
        )
        for one in body.items
    ]
    service = service_of(request)
    return reply(await service.change(lambda: service.upsert(items)))


@router.get("/items/{item_id:path}", response_model=answers.ItemAnswer, tags=["items"])
async def item(request: Request, item_id: PathId) -> Response:
    """Return one item: its words, its other columns, and how many took it."""
    service, name = service_of(request), own_id(item_id)
    run = service.run
    return reply(await service.work(lambda: asking.item(run, name)))
