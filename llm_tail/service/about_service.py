"""Routes about the service itself: what it serves, how it fares, its page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response

import llm_tail
from llm_tail.service import answers
from llm_tail.service.about_items import service_of
from llm_tail.service.columns import columns_of, languages_of
from llm_tail.service.exposure import curve
from llm_tail.service.metrics import shares_of
from llm_tail.service.problems import RESPONSES, reply
from llm_tail.service.served import ServedRun

router = APIRouter(responses=RESPONSES)

PAGE = Path(__file__).parent / "page"
PLAIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>llm-tail</title>
<h1>llm-tail</h1><p>The service answers. What there is to ask: <a href="openapi.json">openapi.json</a>.
For a start: <a href="info">info</a>, <a href="search?q=something+nice">search</a>, <a href="metrics">metrics</a>.</p>
</html>"""


@router.get("/info", response_model=answers.InfoAnswer, tags=["service"])
async def info(request: Request) -> Response:
    """Return what is served: the run, its models, its encoders, its columns."""
    service = service_of(request)
    run = service.run
    still = await service.work(lambda: run.once("info", lambda: _info(run)))
    moving = {
        "n_items": run.n_items,
        "n_upserted": len(run.stock.shelf.items),
        "n_feedback": service.people.n_events,
        "max_k": service.settings.max_k,
        "communities": len(run.places.names),
    }
    return reply({**still, **moving})


def _info(run: ServedRun) -> dict[str, Any]:
    workspace, segments = run.workspace, run.segments
    sizes = {}
    if segments is not None:
        sizes = {name: int(getattr(segments, name).sum()) for name in ("head", "tail", "cold")}
    return {
        "name": workspace.folder.name if workspace.folder.name != "run" else workspace.folder.parent.name,
        "version": llm_tail.__version__,
        "n_people": len(run.hybrid.users) if run.hybrid is not None else 0,
        "models": run.models,
        "encoders": ["run", *(["base"] if run.base_index is not None else [])],
        "encoder": Path(workspace.config.encoder.name).name,
        "runtime": run.encoder.runtime.runtime,
        "dim": run.index.dim,
        "segments": sizes,
        "relations": run.graph.relations,
        "hows": ["vectors", "words", "both"],
        "languages": languages_of(run.catalog),
        "columns": columns_of(run.catalog),
        "loaded": run.loaded,
    }


@router.get("/exposure", response_model=answers.ExposureAnswer, tags=["service"])
async def exposure(
    request: Request, surface: Annotated[answers.Surface, Query(description="Where it was shown.")] = "all"
) -> Response:
    """Return what was shown over the last hour, by segment, and how evenly."""
    service = service_of(request)
    run, counts = service.run, service.exposure.counts(surface)

    def count() -> dict[str, Any]:
        there = {item_id: n for item_id, n in counts.items() if item_id in run}
        line, gini = curve(np.fromiter(there.values(), np.int64, len(there)), run.n_items)
        names, n = ("head", "tail", "cold"), len(run.ids)
        segments = run.segments
        catalog = {x: 0.0 if segments is None else float(getattr(segments, x).sum() / n) for x in names}
        return {
            "surface": surface,
            "n_shown": sum(there.values()),
            "shares": dict(zip(names, shares_of(run, there), strict=True)),
            "catalog": catalog,
            "coverage": min(1.0, len(there) / run.n_items),
            "curve": line,
            "gini": min(1.0, max(0.0, gini)),
        }

    return reply(await service.work(count))


@router.post("/admin/reload", response_model=answers.ReloadAnswer, tags=["service"])
async def reload(request: Request) -> Response:
    """Serve the run as it lies on disk now; where it is not finished the old one is served on, and this says why."""
    service = service_of(request)
    return reply(await service.change(lambda: service.reload(why="asked by a client")))


@router.get("/health", response_model=answers.HealthAnswer, tags=["service"])
async def health() -> Response:
    """Say that the process answers."""
    return reply({"status": "ok"})


@router.get("/ready", response_model=answers.ReadyAnswer, tags=["service"])
async def ready(request: Request) -> Response:
    """Say which run is served, and why a newer one on disk is not."""
    service = service_of(request)
    told = service.newer if request.scope.get("authorized") else service.newer and "see the log"
    return reply({"ready": True, "run": service.run.key, "loaded": service.run.loaded, "newer": told})


@router.get("/metrics", response_class=Response, tags=["service"])
async def metrics(request: Request) -> Response:
    """Return counts and states in the text format of Prometheus."""
    service = service_of(request)
    return Response(await service.work(service.metrics.text), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page."""
    index = PAGE / "index.html"
    return FileResponse(index, headers={"Cache-Control": "no-cache"}) if index.is_file() else HTMLResponse(PLAIN_PAGE)


@router.get("/page/{name:path}", include_in_schema=False)
async def page_file(name: str) -> Response:
    """Return a file of the page."""
    path = (PAGE / name).resolve()
    if not (path.is_relative_to(PAGE.resolve()) and path.is_file()) or path.suffix not in MEDIA:
        raise HTTPException(404)
    return FileResponse(path, media_type=MEDIA[path.suffix], headers={"Cache-Control": "no-cache"})


MEDIA = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
