"""One service over the small shop, for all tests that only ask."""

import shutil

import pytest
from starlette.testclient import TestClient


def quiet(config, *overrides):
    """Open a run for serving: no watch, no limits."""
    from llm_tail.workspace import Workspace

    return Workspace.open(config, ("serve.watch_seconds=0", "serve.rate=0", *overrides))


@pytest.fixture(scope="session")
def served_shop(finished_shop, tmp_path_factory):
    """A finished run of the service's own; asked, told, and never fitted again."""
    folder = tmp_path_factory.mktemp("served") / "shop"
    shutil.copytree(finished_shop.parent, folder, copy_function=shutil.copy2)
    return folder / finished_shop.name


@pytest.fixture(scope="session")
def client(served_shop):
    from llm_tail.service import create_app

    with TestClient(create_app(quiet(served_shop)), raise_server_exceptions=False) as one:
        yield one


@pytest.fixture
def own_client(shop_copy):
    """A service that a test may tell things."""
    from llm_tail.service import create_app

    with TestClient(create_app(quiet(shop_copy)), raise_server_exceptions=False) as one:
        yield one
