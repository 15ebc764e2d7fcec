"""The small shop, run once for all tests that only ask it."""

import os
import shutil

# On matrices as small as those of the tests, threads that wait for each other take three times as long as one alone.
# Set before numpy and torch are loaded; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.pop("COLUMNS", None)  # set by pytest-xdist: what is written into a pipe has a width of its own

import pytest
from hypothesis import settings

from tests import shop

# How long an example takes hangs on what else the machine does.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")

os.environ["MPLBACKEND"] = "Agg"  # nobody looks at a window while tests run


@pytest.fixture(scope="session")
def finished_shop(tmp_path_factory):
    """The config file of a run whose stages are all finished; not to be changed."""
    from llm_tail.workspace import Workspace

    config = shop.write(tmp_path_factory.mktemp("shop"))
    Workspace.open(config).run()
    return config


@pytest.fixture
def shop_copy(finished_shop, tmp_path):
    """A finished run of one's own."""
    shutil.copytree(finished_shop.parent, tmp_path / "shop", copy_function=shutil.copy2)
    return tmp_path / "shop" / finished_shop.name
