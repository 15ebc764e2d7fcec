"""A real service on a thread and a real headless Chromium in front of it, for tests of the page."""

import os
import shutil
import socket
import threading
import time
from contextlib import contextmanager

import pytest

PLACES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
ARGUMENTS += [f"--disable-{name}" for name in ("background-networking", "component-update", "sync", "quic")]


def find_chromium():
    """Return the program, or skip where there is none."""
    found = os.environ.get("LLM_TAIL_CHROMIUM") or next(filter(None, map(shutil.which, PLACES)), None)
    if not found:
        pytest.skip(f"no Chromium here: none of {', '.join(PLACES)} is on the path, LLM_TAIL_CHROMIUM is not set")
    return found


@contextmanager
def chromium():
    """Start the browser."""
    program = find_chromium()
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def serving(workspace):
    """Serve a run on a free port; give the address."""
    import uvicorn

    from llm_tail.service import create_app

    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    app = create_app(workspace)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)
    sock.close()
