"""Jobs that kill themselves (SIGKILL) at their n-th touch of disk or encoder, and are resumed; prints what came of it.

Run as ``python -m tests.embedding.killing FOLDER N_KILLS SEED``: one process forks all of them, so that libraries are
loaded once.
"""

import json
import os
import pathlib
import signal
import sys
from pathlib import Path

import numpy as np

from llm_tail.artifacts import sha256
from llm_tail.config import EmbeddingConfig
from llm_tail.data.catalog import Catalog
from llm_tail.embedding.store import EmbeddingStore

from .letters import LetterEncoder


class Logging(LetterEncoder):
    """Writes down which texts it is given before it encodes them."""

    def __init__(self, log):
        super().__init__()
        self._log = log

    def encode(self, texts, **options):
        with self._log.open("a") as stream:
            stream.write(json.dumps(list(texts)) + "\n")
        return super().encode(texts, **options)


def catalogs():
    """Return the items before and after a change; some texts stand in several shards, some shards do not change."""
    first = [{"item_id": f"i{i}", "title": f"text number {i % 37}"} for i in range(44)]
    second = [{"item_id": "new", "title": "a new one"}, *first[:9], *first[12:30]]
    second += [{**item, "title": f"other {i % 5}"} for i, item in enumerate(first[30:])]
    second += [{"item_id": f"more{i}", "title": f"more {i % 11}"} for i in range(13)]
    return Catalog.from_items(first), Catalog.from_items(second)


def embed(folder, log, catalog):
    EmbeddingStore.open(folder).update(catalog, Logging(log), config=EmbeddingConfig(shard_items=4))


def touches(kill_at, job):
    """Run `job` and count its touches of disk and encoder, before and after each; die at number `kill_at`."""
    count = 0

    def touch():
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(function):
        def call(*arguments, **options):
            touch()
            result = function(*arguments, **options)
            touch()
            return result

        return call

    os.fsync = watched(os.fsync)
    for method in ("replace", "unlink", "open"):
        setattr(pathlib.Path, method, watched(getattr(pathlib.Path, method)))
    LetterEncoder.encode = watched(LetterEncoder.encode)
    job()
    return count


def forked(job):
    """Run `job` in a child; return what it returned, or None if it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.write(write, json.dumps(job()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert status == 0
    return json.loads(said)


def calls(log):
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def contents(folder):
    return {path.name: sha256(path) for path in Path(folder).iterdir()}


def main(root, n_kills, seed):
    first, second = catalogs()
    found = []
    for name, before, catalog in (("new", None, first), ("changed", first, second)):

        def prepared(place, before=before, catalog=catalog):
            folder, log = root / place / "store", root / place / "log"
            folder.parent.mkdir()
            if before is not None:
                embed(folder, root / place / "before", before)
            return folder, log, lambda: embed(folder, log, catalog)

        folder, log, job = prepared(f"{name}-whole")
        n_touches = forked(lambda job=job: touches(0, job))
        whole, once = contents(folder), sorted(text for call in calls(log) for text in call)
        chosen = np.random.default_rng(seed).choice(n_touches, n_kills, replace=False) + 1
        for kill_at in sorted({*chosen.tolist(), *range(n_touches - 9, n_touches, 3)}):
            folder, log, job = prepared(f"{name}-{kill_at}")
            killed = forked(lambda job=job, at=kill_at: touches(at, job)) is None
            before_it = calls(log)
            done = {text for call in before_it[:-1] for text in call}
            in_flight = set(before_it[-1]) if before_it else set()
            forked(lambda job=job: touches(0, job))
            after = [text for call in calls(log)[len(before_it) :] for text in call]
            found.append(
                {
                    "job": name,
                    "kill_at": kill_at,
                    "killed": killed,
                    "equal": contents(folder) == whole,
                    "twice": sorted(done & set(after)),
                    "missing": sorted(set(once) - done - in_flight - set(after)),
                    "n_after": len(after),
                }
            )
    assert "torch" not in sys.modules, "the store has no need of torch"
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
