"""Metrics: what Prometheus is told of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llm_tail.service.exposure import Exposure

if TYPE_CHECKING:
    from llm_tail.service.served import ServedRun

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SEGMENTS = ("head", "tail", "cold")


class Metrics(Collector):
    """Counts as they happen; what is a state is looked up when it is asked for.

    ::

        llm_tail_request_seconds{route}            histogram of latencies
        llm_tail_requests_total{route,status}
        llm_tail_shown_share{segment}              of what was shown in the last hour, by head, tail and cold
        llm_tail_coverage                          share of the catalogue shown in the last hour
        llm_tail_drift{of,part}                    of query and item vectors, mean and covariance; see `drift`
        llm_tail_items, llm_tail_upserted_items, llm_tail_feedback_events
        llm_tail_encoder_queue, llm_tail_queries_total, llm_tail_queries_cached_total
    """

    def __init__(self, run: Callable[[], ServedRun], exposure: Exposure, n_events: Callable[[], int]) -> None:
        self._run, self._exposure, self._n_events = run, exposure, n_events
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "llm_tail_request_seconds", "Seconds to answer.", ["route"], buckets=BUCKETS, registry=self.registry
        )
        labels = ["route", "status"]
        self._requests = Counter("llm_tail_requests", "Questions answered.", labels, registry=self.registry)
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def watch(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._seconds.labels(route).observe(seconds)
        self._requests.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """Return all of it in the text format of Prometheus."""
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is to collect is not known before there is a run."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield the states of this moment."""
        run = self._run()
        counts = self._exposure.counts()
        shares = GaugeMetricFamily("llm_tail_shown_share", "Share of what was shown in an hour.", labels=["segment"])
        for segment, share in zip(SEGMENTS, shares_of(run, counts), strict=True):
            shares.add_metric([segment], share)
        yield shares
        n_shown = sum(1 for item_id in counts if item_id in run)
        plain = {
            "coverage": ("Share of the catalogue that was shown in an hour.", n_shown / run.n_items),
            "items": ("Items that can be found.", run.n_items),
            "upserted_items": ("Items that came or changed through the service.", len(run.stock.shelf.items)),
            "feedback_events": ("Events that came through the service.", self._n_events()),
            "encoder_queue": ("Texts that wait for the encoder.", run.encoder.n_waiting),
            "queries": ("Free texts asked for since the run was loaded.", run.encoder.n_asked),
            "queries_cached": ("Of these, answered from memory.", run.encoder.n_known),
        }
        for name, (words, value) in plain.items():
            yield GaugeMetricFamily(f"llm_tail_{name}", words, value=float(value))
        drift = GaugeMetricFamily("llm_tail_drift", "Distance from the catalogue.", labels=["of", "part"])
        for of, vectors in (("queries", list(run.encoder.recent)), ("items", list(run.stock.shelf.vectors[-1000:]))):
            found = run.drift.of(vectors)
            for part, value in zip(("mean", "covariance"), found or (), strict=False):
                drift.add_metric([of, part], value)
        yield drift


def shares_of(run: ServedRun, counts: dict[str, int]) -> tuple[float, float, float]:
    """Return the shares of head, tail and cold items among those shown; all 0 where nothing was shown."""
    totals = dict.fromkeys(SEGMENTS, 0)
    for item_id, n in counts.items():
        segment = run.card(item_id).segment if item_id in run else None
        if segment is not None:
            totals[segment] += n
    whole = max(1, sum(totals.values()))
    head, tail, cold = (float(np.round(totals[name] / whole, 6)) for name in SEGMENTS)
    return head, tail, cold
