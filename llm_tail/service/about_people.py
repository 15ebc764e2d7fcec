"""Routes about people: what to show them, why, and what they did."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import StringConstraints
from starlette.responses import Response

from llm_tail.service import answers, asking, persons
from llm_tail.service.about_items import PathId, names_of, own_id, service_of
from llm_tail.service.problems import RESPONSES, reply

Taken = Annotated[str, StringConstraints(max_length=50_000)]

router = APIRouter(responses=RESPONSES)


@router.post("/recommendations", response_model=answers.RecommendAnswer, tags=["people"])
async def recommend(request: Request, body: answers.RecommendQuestion) -> Response:
    """Return items for a known person, or for one who is nothing but a history of items."""
    service = service_of(request)
    run, people, k = service.run, service.people, min(body.k, service.settings.max_k)
    found = await service.work(
        lambda: persons.recommend(
            run,
            people,
            user=body.user,
            history=body.history,
            k=k,
            model=body.model,
            candidates=body.candidates,
            where=body.where or (),
        )
    )
    service.exposure.add("recommendations", (one["item_id"] for one in found["items"]))
    return reply(found)


@router.get("/items/{item_id:path}/explain", response_model=answers.ExplainAnswer, tags=["people"])
async def explain(
    request: Request,
    item_id: PathId,
    user: Annotated[str | None, Query(description="A known person.", max_length=512)] = None,
    history: Annotated[
        list[Taken] | None, Query(description="Ids, or some with commas between.", max_length=10_000)
    ] = None,
) -> Response:
    """Return why an item would be recommended to a person; without one, to whom it fits best."""
    service, name = service_of(request), own_id(item_id)
    run, people = service.run, service.people
    taken = None if history is None else [x for said in history for x in ([said] if said in run else names_of(said))]
    return reply(await service.work(lambda: persons.explain(run, people, name, user, taken)))


@router.post("/feedback", response_model=answers.FeedbackAnswer, tags=["changing"])
async def feedback(request: Request, body: answers.FeedbackQuestion) -> Response:
    """Keep what a person did: it is on disk when the answer comes, and the next recommendation knows of it."""
    user, item_id = asking.checked(body.user), asking.checked(body.item_id)
    number, n_events = await service_of(request).note(user, item_id, body.event, body.time)
    return reply({"event_id": number, "n_events": n_events})
