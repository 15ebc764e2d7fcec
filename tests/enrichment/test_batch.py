import json

import pytest

from llm_tail.enrichment import batch as home
from llm_tail.enrichment.batch import BatchBackend
from llm_tail.enrichment.enrich import enrich
from llm_tail.errors import ConfigError, DataError, UnfinishedError

from .conftest import settings
from .server import honest


def run(catalog, folder, **values):
    config = settings(backend="batch", **values)
    return enrich(catalog, BatchBackend(config, folder / "batches"), config, folder=folder)


def answered(folder, name="questions-0001.jsonl", out="answers-0001.jsonl", fail=(), change=None):
    """Answer a file of questions as a batch service would, in another order."""
    lines = []
    for text in reversed((folder / "batches" / name).read_text(encoding="utf-8").splitlines()):
        line = json.loads(text)
        answer = json.dumps(honest(line["body"]["messages"], line["body"]), ensure_ascii=False)
        answer = change(answer) if change else answer
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        body = {"choices": [{"message": {"role": "assistant", "content": answer}}], "usage": usage}
        response = {"status_code": 200, "body": body}
        if any(word in text for word in fail):
            response = {"status_code": 500, "body": {"error": {"message": "overloaded"}}}
        lines.append(json.dumps({"custom_id": line["custom_id"], "response": response, "error": None}))
    (folder / "batches" / out).write_text("\n".join(lines) + "\n", encoding="utf-8")


def questions(folder):
    return sorted(path.name for path in (folder / "batches").glob("questions*"))


def test_out_and_back(books, tmp_path):
    few = books.take(range(12))
    with pytest.raises(
        UnfinishedError, match=r"12 questions were written to questions-0001\.jsonl in .*the same command"
    ):
        run(few, tmp_path)
    line = json.loads((tmp_path / "batches" / "questions-0001.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"]["response_format"]["json_schema"]["name"] == "summary"
    with pytest.raises(UnfinishedError, match=r"questions-0001\.jsonl have no answers yet"):
        run(few, tmp_path)
    assert questions(tmp_path) == ["questions-0001.jsonl"], "a question is written once"
    answered(tmp_path)
    found = run(few, tmp_path, price_in=1.0)
    assert (found.n_kept, found.n_new, found.complete) == (12, 12, True)
    assert (found.spent.tokens, found.spent.money) == (12 * 110, pytest.approx(12 * 100 / 1e6))
    assert run(few, tmp_path).n_new == 0


def test_more_items_make_another_file(books, tmp_path):
    with pytest.raises(UnfinishedError):
        run(books.take(range(4)), tmp_path)
    with pytest.raises(UnfinishedError, match=r"3 questions were written to questions-0002\.jsonl and questions-0001"):
        run(books.take(range(7)), tmp_path)
    answered(tmp_path)
    with pytest.raises(UnfinishedError, match=r"questions-0002\.jsonl have no answers yet"):
        run(books.take(range(7)), tmp_path)
    answered(tmp_path, "questions-0002.jsonl", "answers-of-tuesday.jsonl")
    assert run(books.take(range(7)), tmp_path).n_kept == 7


def test_errors_are_written_again_and_wrong_answers_with_the_complaint(books, tmp_path):
    few = books.take(range(6))
    with pytest.raises(UnfinishedError):
        run(few, tmp_path)
    answered(tmp_path, fail=[few.titles[2]])
    with pytest.raises(UnfinishedError, match=r"1 questions were written to questions-0002"):
        run(few, tmp_path)
    answered(tmp_path, "questions-0002.jsonl", "answers-0002.jsonl", change=lambda text: text[:30])
    with pytest.raises(UnfinishedError, match=r"1 questions were written to questions-0003"):
        run(few, tmp_path)
    third = (tmp_path / "batches" / "questions-0003.jsonl").read_text(encoding="utf-8")
    assert "cannot be used" in third and json.loads(third)["custom_id"].endswith("-2")
    answered(tmp_path, "questions-0003.jsonl", "answers-0003.jsonl")
    assert run(few, tmp_path).n_kept == 6


def test_files_stay_as_small_as_services_want_them(books, tmp_path, monkeypatch):
    monkeypatch.setattr(home, "MOST_LINES", 5)
    with pytest.raises(UnfinishedError, match=r"questions-0001\.jsonl, questions-0002\.jsonl, questions-0003\.jsonl"):
        run(books.take(range(12)), tmp_path)
    sizes = [
        len((tmp_path / "batches" / name).read_text(encoding="utf-8").splitlines()) for name in questions(tmp_path)
    ]
    assert sizes == [5, 5, 2]


@pytest.mark.parametrize(
    "line", ['{"custom_id": "x"}', '{"response": {"body": {"choices": []}}}', "[]", '{"error": "expired"}', "17"]
)
def test_strange_lines_answer_nothing(line, books, tmp_path):
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "answers.jsonl").write_text(line + "\n\n", encoding="utf-8")
    with pytest.raises(UnfinishedError):
        run(books.take(range(2)), tmp_path)


def test_a_cut_file_is_named(books, tmp_path):
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "answers.jsonl").write_text('{"custom_id": "x', encoding="utf-8")
    with pytest.raises(DataError, match=r"answers\.jsonl, line 1 is no JSON"):
        run(books.take(range(2)), tmp_path)


def test_a_model_has_to_be_named(tmp_path):
    with pytest.raises(ConfigError, match="model is not set"):
        BatchBackend(settings(backend="batch", model=""), tmp_path)


def test_a_budget_bounds_what_is_written(books, tmp_path):
    with pytest.raises(UnfinishedError, match=r"\d questions were written"):
        run(books.take(range(12)), tmp_path, max_tokens=4000)
    n = len((tmp_path / "batches" / "questions-0001.jsonl").read_text(encoding="utf-8").splitlines())
    assert 1 <= n <= 6
