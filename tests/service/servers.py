"""The real thing for tests: ``llm-tail serve`` in a process of its own."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx


class Server:
    """A served run; `client` asks it, `log` is what it said."""

    def __init__(self, process, log):
        self.process, self.log = process, log
        deadline = time.monotonic() + 120
        while not (found := re.search(r"items at (http://\S+?)/ ?", self.text)) and time.monotonic() < deadline:
            if process.poll() is not None:
                raise AssertionError(f"it ended with {process.returncode}: {self.text}")
            time.sleep(0.05)
        self.url = found[1]
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=30)
        while True:
            try:
                self.client.get("/health")
                return
            except httpx.ConnectError:
                time.sleep(0.02)

    @property
    def text(self):
        return self.log.read_text(encoding="utf-8")

    def end(self, signal):
        self.client.close()
        self.process.send_signal(signal)
        return self.process.wait(timeout=60)


def command(*arguments):
    return [sys.executable, "-m", "llm_tail", *map(str, arguments)]


@contextmanager
def serving(config, tmp_path, *arguments, **environment):
    """Serve a run on a free port until the end of the block."""
    log = tmp_path / "serve.log"
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    asked = command("serve", config, "--port", 0, "--set", "serve.rate=0", *arguments)
    with log.open("w") as out, subprocess.Popen(asked, stdout=out, stderr=subprocess.STDOUT, env=env) as process:
        server = None
        try:
            server = Server(process, log)
            yield server
        finally:
            if server is not None:
                server.client.close()
            if process.poll() is None:
                process.kill()
