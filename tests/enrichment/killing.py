"""Enriches until it is done or killed: ``python -m tests.enrichment.killing FOLDER N IN_FLIGHT [RATE]``."""

import sys

from llm_tail.data.catalog import Catalog
from llm_tail.enrichment.enrich import enrich
from llm_tail.enrichment.openai import OpenAiBackend

from .conftest import settings

WORDS = [
    "harbour",
    "lantern",
    "orchard",
    "winter",
    "letter",
    "captain",
    "garden",
    "violin",
    "desert",
    "library",
    "mountain",
    "river",
]


def catalog(n):
    """Return n items that differ in their words."""
    return Catalog.from_items(
        {
            "item_id": f"item-{i}",
            "title": f"The {WORDS[i % 12]} of the {WORDS[i // 12 % 12]} {i}",
            "description": f"Number {i} tells of a {WORDS[(i * 7) % 12]} and of those who looked for it.",
        }
        for i in range(n)
    )


def config(in_flight, rate=0.0):
    return settings(in_flight=in_flight, requests_per_minute=60 * rate, timeout=30.0, retries=20)


def main(folder, n, in_flight, rate):
    given = config(in_flight, rate)
    outcome = enrich(catalog(n), OpenAiBackend(given), given, folder=folder)
    print(outcome, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]) if len(sys.argv) > 4 else 0.0)
