"""``llm-tail enrich`` and ``review``: what is said, where, and with which exit code."""

import json

import pytest
from typer.testing import CliRunner

from llm_tail.cli import app
from tests import shop
from tests.enrichment.conftest import key, serve  # noqa: F401
from tests.enrichment.server import KEY, MODEL

EXTRA = (
    f'[enrichment]\nenabled = true\nbackend = "openai"\nmodel = "{MODEL}"\ntasks = ["summary"]\ntimeout = 20.0\n'
    'price_in = 1.0\nprice_out = 2.0\n[encoder]\nruntime = "tfidf"\n'
)


@pytest.fixture
def verb():
    return lambda *arguments: CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def shelf(serve, tmp_path):  # noqa: F811
    titles = shop.items()["title"]
    mind = serve(plan={titles[0]: ["price", "price"], titles[1]: ["empty", "empty"]})
    return shop.write(tmp_path, extra=EXTRA), mind


def test_the_way_from_a_forecast_to_a_decision(shelf, verb):
    config, mind = shelf
    told = json.loads(verb("enrich", config, "--dry-run", "--json").stdout)
    assert told["questions"] == 28 and 0 < told["money"] < 1 and not mind.log
    done = verb("enrich", config)
    assert done.exit_code == 0 and "26 of 28 answers in use, 30 new, 2 set aside" in done.stdout
    assert "llm-tail review" in done.stderr and "USD" in done.stdout
    shown = json.loads(verb("review", config, "--json").stdout)
    assert len(shown["aside"]) == 2 and len(shown["samples"]) == 5 and not shown["decided"]
    assert "price" in next(case for case in shown["aside"] if case["words"])["reason"]
    assert "2 answers are set aside" in verb("review", config).stderr
    keys = {case["item_id"]: case["key"] for case in shown["aside"]}
    decided = verb("review", config, "--accept", keys["k0"], "--reject", "k5/summary")
    assert decided.exit_code == 0 and "k0/summary: accept" in decided.stdout and "k5/summary: reject" in decided.stdout
    text = json.dumps({"summary": "A long knife with teeth, for loaves with a hard crust.", "confidence": 1})
    assert "edit" in verb("review", config, "--edit", "k1/summary", "--text", text).stdout
    n_asked = len(mind.log)
    result = json.loads(verb("enrich", config, "--json").stdout)
    assert (result["state"], result["n_kept"], result["n_aside"]) == ("done", 27, 1) and len(mind.log) == n_asked
    assert verb("enrich", config).stderr.count("nothing to do") == 1
    assert "undecided" in verb("review", config, "--undo", "k0/summary").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["review", "{}"], 1, "nothing has been asked yet; run: llm-tail enrich"),
        (["enrich", "{}", "--set", "enrichment.enabled=false"], 1, "enrich is switched off"),
        (["enrich", "{}", "--set", "enrichment.model=scripted"], 1, "the closest are: scripted-1"),
        (["enrich", "{}", "--set", "enrichment.max_money=0"], 1, "a budget of zero pays for no answer"),
        (["enrich", "{}", "--set", 'enrichment.tasks=["sumary"]'], 1, "did you mean 'summary'"),
        (["enrich", "{}", "--set", "enrichment.domain=boks"], 1, "did you mean 'books'"),
        (["enrich", "{}", "--set", 'enrichment.fields=["titel"]'], 1, "did you mean 'title'"),
        (["enrich", "{}", "--set", "enrichment.api_key_from=NO_KEY"], 1, "the environment variable NO_KEY is not set"),
        (["enrich", "{}", "--set", "enrichment.max_tokens=900"], 1, "the budget is spent: 0 tokens"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(arguments, code, said, shelf, verb):
    config, mind = shelf
    done = verb(*(one.format(config) for one in arguments))
    assert done.exit_code == code and said in done.stderr and not done.stdout
    assert KEY not in done.stderr and not mind.log


def test_a_decision_that_names_nothing(shelf, verb):
    config, _ = shelf
    verb("enrich", config)
    assert "no answer has the id 'k0/sumary'; the closest are" in verb("review", config, "--accept", "k0/sumary").stderr
    assert "cannot be used like this" in verb("review", config, "--accept", "k1/summary").stderr
    assert verb("review", config, "--edit", "k1/summary").exit_code == 2


def test_a_run_that_went_on_without_some_is_taken_up_again(shelf, verb):
    config, mind = shelf
    mind.plan = {"Rolling pin": ["500", "..."]}
    short = ["--set", "enrichment.retries=0", "--set", "enrichment.when_spent=go-on"]
    assert "1 failed at the server" in verb("enrich", config, *short).stdout
    mind.plan = {}
    assert "28 of 28 answers in use, 1 new" in verb("enrich", config, *short).stdout
