"""The stage ``enrich`` in a run of the small shop."""

import json

import pytest

from llm_tail.config import RunConfig
from llm_tail.errors import ConfigError, DataError, LlmTailError, StaleArtifactError
from llm_tail.workspace import Workspace
from llm_tail.workspace.generated import effective, source_text
from tests import shop
from tests.enrichment.conftest import key, serve  # noqa: F401
from tests.enrichment.server import KEY, MODEL

ON = '[enrichment]\nenabled = true\ndomain = "products"\n'
ASKED = (
    f'{ON}backend = "openai"\nmodel = "{MODEL}"\ntimeout = 20.0\n'
    'tasks = ["attributes", "summary", "relations", "profile"]\n'
)
STAGES = ("enrich", "embed", "index", "graph")  # not the audit, which loads an encoder to count tokens
TEXT = '[text]\nfields = ["title", "description", "generated_attributes"]\n[encoder]\nruntime = "tfidf"\n'


@pytest.fixture
def asked(serve, tmp_path):  # noqa: F811
    """The config of a shop that is enriched by a server, and the server's mind."""
    mind = serve()
    return shop.write(tmp_path, extra=TEXT + ASKED), mind


def test_generated_words_reach_the_vectors_and_one_setting_drops_them(asked):
    config, mind = asked
    workspace = Workspace.open(config)
    results = {name: workspace.run_stage(name) for name in STAGES}
    assert "answers in use" in results["enrich"].note
    assert workspace.source_catalog.columns == ["item_id", "title", "description", "category", "brand"]
    assert "generated_summary" in workspace.catalog.columns
    assert "calm" in workspace.item_text.texts(workspace.catalog)[0]
    n_asked = len(mind.log)
    again = Workspace.open(config)
    assert {again.run_stage(name).state for name in STAGES} == {"skipped"} and len(mind.log) == n_asked
    plain = Workspace.open(config, ["enrichment.use=false"])
    assert plain.item_text.config.fields == ["title", "description"] and plain.catalog.columns[-1] == "brand"
    never = Workspace.open(config, ["enrichment.enabled=false", 'text.fields=["title","description"]'])
    for stage in ("audit", "pretrain", "finetune", "embed", "index", "graph", "fit", "evaluate"):
        assert plain.fingerprint(stage) == never.fingerprint(stage), "a run without enrichment keeps its fingerprints"
    for stage in ("embed", "index", "graph", "fit"):
        assert plain.fingerprint(stage) != workspace.fingerprint(stage)


def test_profiles_see_training_alone(asked):
    config, mind = asked
    workspace = Workspace.open(config)
    workspace.run(until="enrich")
    sent = [body["messages"][1]["content"] for body in mind.log if "<history>" in body["messages"][1]["content"]]
    assert sent
    from llm_tail.enrichment.provenance import check_provenance, event_hashes
    from llm_tail.enrichment.result import Enrichment
    from llm_tail.workspace.enriching import PROFILES

    (path,) = (workspace.folder / "enriched").rglob(PROFILES)
    profiles = Enrichment.load(path)
    check_provenance(profiles, workspace.split)
    shown = {event for part in profiles for event in part.provenance.events}
    assert shown <= {f"{h:016x}" for h in event_hashes(workspace.split.train).tolist()}
    held = {f"{h:016x}" for h in event_hashes(workspace.split.test).tolist()}
    assert len(held) and not shown & held


def test_a_run_whose_prompts_could_see_the_test_fails(asked, monkeypatch):
    config, mind = asked
    from llm_tail.workspace import enriching

    def leaking(workspace):
        from llm_tail.enrichment.provenance import training_histories

        return training_histories(workspace.interactions, workspace.split)

    monkeypatch.setattr(enriching, "_histories", leaking)
    with pytest.raises(DataError, match=r"would see .* interactions that are not of training"):
        Workspace.open(config).run(until="enrich")
    assert not mind.log


def test_decisions_and_other_answers_are_seen_behind(asked):
    config, _ = asked
    workspace = Workspace.open(config)
    workspace.run(until="embed")
    before = workspace.fingerprint("enrich"), workspace.fingerprint("embed")
    from llm_tail.enrichment.cache import AnswerCache
    from llm_tail.workspace.generated import answers_folder

    with AnswerCache(answers_folder(workspace.config)) as cache:
        row = next(cache.find(task="attributes", subject="k0"))
        cache.decide(row.key, "reject")
    assert not workspace.is_finished("enrich") and workspace.fingerprint("embed") == before[1]
    workspace.run_stage("enrich")
    assert workspace.fingerprint("embed") != before[1] and not workspace.is_finished("embed")
    assert workspace.catalog["k0"].fields.get("generated_attributes") is None
    dearer = Workspace.open(config, ["enrichment.max_tokens=10_000_000"])
    assert dearer.fingerprint("enrich") != workspace.fingerprint("enrich")
    assert dearer.fingerprint("embed") == workspace.fingerprint("embed"), "a budget is no part of what is said"


def test_generated_fields_that_were_made_anew_elsewhere_are_not_mistaken_for_the_old(asked):
    from llm_tail.enrichment.cache import AnswerCache
    from llm_tail.workspace.generated import answers_folder

    config, _ = asked
    workspace = Workspace.open(config)
    workspace.run_stage("enrich")
    assert workspace.catalog["k0"].fields["generated_attributes"]
    source = workspace.source_catalog
    with AnswerCache(answers_folder(workspace.config)) as cache:
        cache.decide(next(cache.find(task="attributes", subject="k0")).key, "reject")
    Workspace.open(config).run_stage("enrich")
    with pytest.raises(StaleArtifactError, match="run: llm-tail enrich"):
        workspace.run_stage("embed")  # the old words would be recorded as the new ones
    for stage in ("enrich", "embed"):
        workspace.run_stage(stage)
    assert Workspace.open(config).is_finished("embed")
    assert workspace.catalog["k0"].fields.get("generated_attributes") is None
    assert workspace.source_catalog is source


def test_what_is_not_there_yet_is_named(asked):
    config, _ = asked
    with pytest.raises(StaleArtifactError, match="the result of 'enrich' is not there yet; run: llm-tail enrich"):
        _ = Workspace.open(config).catalog


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text": {"fields": ["title", "generated_sumary"]}}, r"did you mean 'generated_summary'\?"),
        (
            {"graph": {"relations": ["generated_intents"]}},
            r"\[graph\] relations names 'generated_intents', and \[enrichm",
        ),
        ({"text": {"fields": ["generated_profile"]}}, "tasks makes generated_attributes, generated_summary"),
    ],
)
def test_generated_fields_that_nobody_makes(values, said):
    with pytest.raises(ConfigError, match=said):
        effective(RunConfig(**values, enrichment={"enabled": True}))


def test_generated_fields_of_a_run_without_enrichment():
    config = RunConfig(text={"fields": ["generated_summary"]})
    with pytest.raises(ConfigError, match="enabled is false; switch it on, or leave all"):
        effective(config)
    off = config.replace(enrichment={"use": False})
    assert effective(off).text.fields == source_text(off).fields == ["title", "description"]
    plain = RunConfig()
    assert effective(plain) is plain


def test_extracted_words_need_nobody(tmp_path):
    config = shop.write(tmp_path, extra=TEXT + ON)
    workspace = Workspace.open(config)
    workspace.run(until="embed")
    assert {part.provenance.backend for part in workspace.enrichment} == {"extractive"}
    assert workspace.enrichment.tasks == ("attributes", "summary")


def test_fields_that_nothing_reads_are_mentioned(tmp_path):
    workspace = Workspace.open(shop.write(tmp_path, extra=ON + '[encoder]\nruntime = "tfidf"\n'))
    assert "nothing reads them yet: add generated_attributes" in workspace.run_stage("enrich").note


def test_the_key_is_not_in_the_record(asked):
    config, _ = asked
    workspace = Workspace.open(config)
    workspace.run(until="enrich")
    assert KEY not in (workspace.folder / "run.json").read_text(encoding="utf-8")
    assert all(KEY not in path.read_bytes().decode("latin-1") for path in workspace.folder.rglob("*") if path.is_file())
    facts = json.loads((workspace.folder / "enriched" / "manifest.json").read_text(encoding="utf-8"))["facts"]
    assert facts["complete"] and facts["n_kept"] > 50


def test_a_budget_lets_the_most_rewarding_first(asked):
    config, mind = asked
    with pytest.raises(LlmTailError, match="the budget is spent"):
        Workspace.open(
            config, ["enrichment.max_tokens=9000", 'enrichment.tasks=["summary"]', 'text.fields=["title"]']
        ).run(until="enrich")
    assert 0 < len(mind.log) < 28
    on = [
        "enrichment.max_tokens=9000",
        'enrichment.tasks=["summary"]',
        'text.fields=["title"]',
        "enrichment.when_spent=go-on",
    ]
    workspace = Workspace.open(config, on)
    (result,) = [one for one in workspace.run(until="enrich") if one.name == "enrich"]
    assert "not asked yet" in result.note and len(workspace.enrichment) == len(mind.log)
