import sqlite3
import subprocess
import sys
import warnings

import pytest

from llm_tail.enrichment import cache as home
from llm_tail.enrichment.backends import Reply, Request
from llm_tail.enrichment.cache import NAME, VERSION, AnswerCache, Spent, decisions_key
from llm_tail.errors import UnfinishedError


def question(key="k", subject="emma", attempt=1):
    return Request(key=key, task="summary", subject=subject, domain="books", language="en", fields={}, attempt=attempt)


def test_a_row_goes_its_way(tmp_path):
    with AnswerCache(tmp_path) as cache:
        assert cache.get("k") is None and cache.spent() == Spent()
        cache.sent(question(), prompt="p@1", model="m")
        assert (cache.get("k").state, cache.get("k").n_asked) == ("sent", 1)
        cache.sent(question(), prompt="p@1", model="m")
        assert cache.get("k").n_asked == 1, "the same attempt sent again is no new one"
        cache.answered(Reply("k", "nonsense", tokens_in=10, tokens_out=3), "bad", "no JSON", 0.5)
        cache.sent(question(attempt=2), prompt="p@1", model="m", mends=True)
        row = cache.get("k")
        assert (row.state, row.text, row.reason, row.n_asked) == ("mending", "nonsense", "no JSON", 2)
        cache.answered(Reply("k", "{}", tokens_in=20, tokens_out=4), "kept", money=0.25)
    with AnswerCache(tmp_path) as cache:
        row = cache.get("k")
        assert (row.state, row.text, row.reason, row.tokens_in, row.tokens_out, row.money) == (
            "kept",
            "{}",
            "",
            30,
            7,
            0.75,
        )
        assert cache.spent() == Spent(30, 7, 0.75, 1) and cache.spent().tokens == 37
        assert cache.counts() == {"kept": 1} and repr(cache) == "AnswerCache(kept: 1)"


def test_a_failure_loses_no_text(tmp_path):
    with AnswerCache(tmp_path) as cache:
        cache.sent(question(), prompt="p@1", model="m")
        cache.answered(Reply("k", "text"), "bad", "wrong")
        cache.answered(Reply("k", error="the server is down", passing=True), "failed")
        assert (cache.get("k").text, cache.get("k").reason) == ("text", "the server is down")


def test_decisions_are_kept_and_told_apart(tmp_path):
    assert decisions_key(tmp_path) == decisions_key(tmp_path / "nowhere")
    assert not (tmp_path / NAME).exists(), "asking makes no file"
    with AnswerCache(tmp_path) as cache:
        cache.sent(question(), prompt="p@1", model="m")
        empty = cache.decisions_key()
        assert empty == decisions_key(tmp_path)
        cache.decide("k", "edit", "{}")
        assert (cache.get("k").verdict, cache.get("k").edited) == ("edit", "{}")
        assert cache.decisions_key() == decisions_key(tmp_path) != empty
        cache.undecide("k")
        assert cache.get("k").verdict == "" and decisions_key(tmp_path) == empty
        cache.sent(question("k2", "dune"), prompt="p@1", model="m")
        assert [row.subject for row in cache.find()] == ["dune", "emma"]
        assert [row.key for row in cache.find(state="sent", subject="emma")] == ["k"]


def test_one_process_asks_at_a_time(tmp_path):
    code = (
        "import sys\nfrom llm_tail.enrichment.cache import AnswerCache\n"
        "cache = AnswerCache(sys.argv[1])\ncache.lock()\n"
        "print('locked', flush=True)\nsys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "locked\n"
    with AnswerCache(tmp_path) as cache:
        with pytest.raises(UnfinishedError, match="another process is enriching in"):
            cache.lock()
        assert cache.counts() == {}, "reading is free"
    other.kill()
    other.communicate()
    with AnswerCache(tmp_path) as cache:
        cache.lock()
        cache.lock()


def version_of(path):
    db = sqlite3.connect(path)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    db.close()
    return version


def test_an_older_cache_is_brought_up_to_date(tmp_path, monkeypatch):
    with AnswerCache(tmp_path) as cache:
        cache.sent(question(), prompt="p@1", model="m")
    monkeypatch.setattr(home, "VERSION", VERSION + 1)
    monkeypatch.setattr(home, "MIGRATIONS", {VERSION: "ALTER TABLE answers ADD COLUMN more TEXT DEFAULT 'x';"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with AnswerCache(tmp_path) as cache:
            assert cache.get("k").subject == "emma"
    assert version_of(tmp_path / NAME) == VERSION + 1


def newer(path):
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 7}")
    db.close()


def damaged(path):
    path.write_bytes(b"SQLite format 3\x00" + b"\x07" * 5000)


def foreign(path):
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE other (x)")
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.close()


@pytest.mark.parametrize("harm", [newer, damaged, foreign])
def test_what_cannot_be_used_is_renamed_and_never_deleted(harm, tmp_path):
    with AnswerCache(tmp_path) as cache:
        cache.sent(question(), prompt="p@1", model="m")
    harm(tmp_path / NAME)
    was = (tmp_path / NAME).read_bytes()
    with pytest.warns(UserWarning, match=r"it was renamed to answers\.sqlite\.1\.old and a new cache is begun"):
        cache = AnswerCache(tmp_path)
    assert cache.counts() == {}
    cache.close()
    assert (tmp_path / f"{NAME}.1.old").read_bytes()[100:] == was[100:]
    harm(tmp_path / NAME)
    with pytest.warns(UserWarning, match=r"\.2\.old"):
        AnswerCache(tmp_path).close()
