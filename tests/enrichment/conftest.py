"""Books to enrich, a server to ask, and what stands for a run."""

import pytest

from llm_tail.config import EnrichmentConfig
from llm_tail.data.books import load_catalog

from .server import KEY, MODEL, Scripted, Server


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@pytest.fixture
def serve(monkeypatch, key):
    """Return a function that starts a server with a script and lets OPENAI_BASE_URL lead to it."""
    servers = []

    def start(**script):
        server = Server(Scripted(**script)).__enter__()
        servers.append(server)
        monkeypatch.setenv("OPENAI_BASE_URL", server.address)
        return server.mind

    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture(scope="session")
def books():
    return load_catalog()


def settings(**values):
    given = {"backend": "openai", "model": MODEL, "domain": "books", "tasks": ["summary"], "timeout": 2.0, "retries": 3}
    return EnrichmentConfig(**{**given, **values})
