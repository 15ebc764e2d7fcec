"""What schemathesis finds: no answer beyond the schema, no fault of ours, whatever is asked."""

import os
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import CHECKS, load_all_checks
    from schemathesis.generation import GenerationMode
    from schemathesis.python import asgi

from tests.service.conftest import quiet

N_EXAMPLES = int(os.environ.get("LLM_TAIL_FUZZ", "12"))
OPERATIONS = [
    "POST /recommendations",
    "POST /feedback",
    "POST /items",
    "POST /admin/reload",
    "GET /items/{item_id}",
    "GET /items/{item_id}/similar",
    "GET /items/{item_id}/related",
    "GET /items/{item_id}/together",
    "GET /items/{item_id}/explain",
    "GET /graph/{item_id}",
    "GET /search",
    "GET /suggest",
    "GET /map",
    "GET /map/items",
    "GET /info",
    "GET /exposure",
    "GET /health",
    "GET /ready",
    "GET /metrics",
]
# What a question means is not all in its schema: a user or a history, a filter that can be read, an id that is there.
# And a value that is a number in a query is a number, whatever the schema calls it.
NOT_HELD = ("positive_data_acceptance", "negative_data_rejection", "ignored_auth")


@pytest.fixture(scope="module")
def told(finished_shop, tmp_path_factory):
    """A service of this module's own, its schema, and who asks it."""
    import shutil

    from llm_tail.service import create_app

    folder = tmp_path_factory.mktemp("schema") / "shop"
    shutil.copytree(finished_shop.parent, folder, copy_function=shutil.copy2)
    app = create_app(quiet(folder / finished_shop.name))

    async def bare(scope, receive, send):  # the service outlives the many who ask
        if scope["type"] == "http":
            await app(scope, receive, send)

    schema = schemathesis.openapi.from_dict(app.openapi())
    with asgi.get_client(bare) as client:
        yield schema, client
    app.state.service.close()


def checks():
    load_all_checks()
    return [check for check in CHECKS.get_all() if check.__name__ not in NOT_HELD]


def test_every_operation_is_tried(told):
    schema, _ = told
    there = {f"{one.ok().method.upper()} {one.ok().path}" for one in schema.get_all_operations()}
    assert there == set(OPERATIONS)


def test_every_operation_says_what_it_is_for_and_what_may_go_wrong(told):
    schema, _ = told
    for path, methods in schema.raw_schema["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            assert {"400", "404", "422", "429", "500"} <= set(operation["responses"]), (method, path)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["sound", "unsound"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_question_breaks_it(told, name, mode):
    schema, client = told
    method, path = name.split()
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        return  # there is nothing to get wrong

    @settings(
        max_examples=N_EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        answer = case.call(session=client, base_url="http://localhost")
        assert answer.status_code < 500, answer.text
        case.validate_response(answer, checks=checks())

    ask()
