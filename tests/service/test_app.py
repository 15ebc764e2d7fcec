import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from llm_tail.errors import DataError, StaleArtifactError
from llm_tail.service import answers
from tests.service.conftest import quiet

SHELF = {f"k{n}" for n in range(7)}


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [one["item_id"] for one in answer.json()["items"]]


# ---- items


def test_an_item_as_the_catalogue_has_it(client):
    told = answers.ItemAnswer(**client.get("/items/k0").json())
    assert told.title == "Frying pan" and told.fields == {"category": "kitchen", "brand": "Northwind"}
    assert told.segment == "head" and told.n_interactions > 5 and not told.upserted


@pytest.mark.parametrize("route", ["", "/similar", "/related", "/together", "/explain"])
def test_an_unknown_item_is_told_with_the_closest(client, route):
    answer = client.get(f"/items/k99{route}")
    told = answers.Problem(**answer.json())
    assert answer.status_code == 404 and told.error.startswith("no item has the id 'k99'; the closest are: k")
    assert len(told.closest) == 3


def test_neighbours_are_those_of_the_run(client, served_shop):
    from llm_tail.workspace import Workspace

    near = Workspace.open(served_shop).index.similar("k0", 5)
    told = answers.ItemsAnswer(**client.get("/items/k0/similar?k=5").json())
    assert [(one.item_id, pytest.approx(one.score, abs=1e-6)) for one in told.items] == list(near)
    assert ids(client.get("/items/k0/similar?k=5&encoder=base")) == list(near.item_ids)  # nothing was fine-tuned


def test_more_than_there_is_gives_all_but_the_item(client):
    found = ids(client.get("/items/k0/similar?k=1000000"))
    assert len(found) == 27 and "k0" not in found


@pytest.mark.parametrize("k", ["0", "-1", "x", "1.5", ""])
def test_a_senseless_k_is_told(client, k):
    answer = client.get(f"/items/k0/similar?k={k}")
    assert answer.status_code == 422 and answer.json()["error"].startswith("k: ")


def test_ties_come_with_words(client):
    told = answers.ItemsAnswer(**client.get("/items/k0/related?k=3").json())
    assert "same category: kitchen" in told.items[0].why and told.items[0].score < 1
    brand = ids(client.get("/items/k0/related?relations=brand&k=50"))
    assert brand and all(client.get(f"/items/{one}").json()["fields"]["brand"] == "Northwind" for one in brand)
    both = set(ids(client.get("/items/k0/related?relations=brand,category&k=50")))
    assert set(brand) | (SHELF - {"k0"}) == both
    far = answers.ItemsAnswer(**client.get("/items/k0/related?relations=brand&hops=2&k=50").json())
    assert all(one.why.startswith(("via ", "same brand")) for one in far.items)


def test_a_relation_that_is_none(client):
    answer = client.get("/items/k0/related?relations=brnad")
    assert answer.status_code == 400 and "did you mean 'brand'" in answer.json()["error"]


def test_taken_together_by_count(client):
    from tests import shop

    events = shop.events()
    owners = set(events[events.item_id == "k0"].user_id)
    told = answers.ItemsAnswer(**client.get("/items/k0/together?k=50").json())
    for one in told.items:
        both = len(owners & set(events[events.item_id == one.item_id].user_id))
        assert int(one.why.split()[0]) <= both  # some were held out
    assert [one.score for one in told.items] == sorted((one.score for one in told.items), reverse=True)


def test_a_graph_of_its_surroundings(client):
    told = answers.GraphAnswer(**client.get("/graph/k0?hops=2&k=6").json())
    names = {node.item_id for node in told.nodes}
    assert told.nodes[0].item_id == "k0" and told.nodes[0].hops == 0 and len(names) == 7
    assert told.edges and all({edge.source, edge.target} <= names and 0 < edge.weight <= 1 for edge in told.edges)
    assert {edge.relation for edge in answers.GraphAnswer(**client.get("/graph/k0?relations=brand").json()).edges} == {
        "brand"
    }


# ---- finding


def test_words_find_what_they_mean(client):
    told = answers.SearchAnswer(**client.get("/search", params={"q": "something to cut bread", "k": 2}).json())
    assert told.items[0].item_id == "k1" and len(told.items) == 2
    assert client.get("/search?q=%20").status_code == 400 and client.get("/search").status_code == 422


def test_letters_find_titles(client):
    assert [one["title"] for one in client.get("/suggest?q=KNI").json()["items"]] == ["Bread knife"]
    assert client.get("/suggest?q=").json()["items"] == []


def test_the_map_is_one_answer_that_is_sent_once(client):
    answer = client.get("/map")
    told = answers.MapAnswer(**answer.json())
    assert told.n_items == 28 and answer.headers["content-encoding"] == "gzip"
    again = client.get("/map", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    bare = client.get("/map", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in bare.headers and json.loads(bare.content) == answer.json()
    assert gzip.compress(bare.content)


def test_points_of_the_map(client):
    told = answers.MapItems(**client.get("/map/items?rows=0,27,28,9999").json())
    assert [(one.row, one.item_id) for one in told.items] == [(0, "k0"), (27, "m6")]
    for rows in ("-1", "a", "٣", "1" * 30, ",".join(["1"] * 6000)):
        assert client.get("/map/items", params={"rows": rows}).status_code == 400


# ---- people


def test_a_person_is_shown_what_the_run_would_show(client, served_shop):
    from llm_tail.workspace import Workspace

    hybrid = Workspace.open(served_shop).hybrid
    told = answers.RecommendAnswer(**client.post("/recommendations", json={"user": "u00", "k": 5}).json())
    assert [one.item_id for one in told.items] == [name for name, _ in hybrid.recommend(["u00"], k=5)[0]]
    assert not told.from_popularity and told.items[0].why.startswith("goes with ")
    history = client.post("/recommendations", json={"history": ["k0", "k1"], "k": 3})
    assert ids(history) == [name for name, _ in hybrid.recommend(history=["k0", "k1"], k=3)[0]]


def test_who_took_nothing_is_shown_what_most_take(client):
    told = answers.RecommendAnswer(**client.post("/recommendations", json={"history": []}).json())
    assert told.from_popularity and len(told.items) == 20


def test_only_candidates_are_shown(client):
    asked = {"history": ["k0"], "candidates": ["g0", "k3", "g0"]}
    assert sorted(ids(client.post("/recommendations", json=asked))) == ["g0", "k3"]
    assert ids(client.post("/recommendations", json={**asked, "candidates": []})) == []


def test_another_model(client):
    assert len(ids(client.post("/recommendations", json={"user": "u00", "model": "ease"}))) > 10
    answer = client.post("/recommendations", json={"user": "u00", "model": "als"})
    assert answer.status_code == 409 and "there are: hybrid" in answer.json()["error"]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 400, "a user or a history"),
        ({"user": "u00", "history": ["k0"]}, 400, "a user or a history"),
        ({"user": "nobody"}, 404, "no user has the id 'nobody'"),
        ({"history": ["k99"]}, 404, "no item has the id 'k99'"),
        ({"user": "u00", "candidates": ["k99"]}, 404, "no item has the id 'k99'"),
        ({"user": "u00", "k": 0}, 422, "k: "),
        ({"user": "u00", "kk": 3}, 422, "kk: "),
        ({"user": ""}, 422, "user: "),
        ([], 422, "the body"),
    ],
)
def test_senseless_questions(client, asked, status, words):
    answer = client.post("/recommendations", json=asked)
    assert answer.status_code == status and words in answer.json()["error"]


def test_why_an_item_would_be_shown(client):
    told = answers.ExplainAnswer(**client.get("/items/k0/explain?user=u01").json())
    assert told.own_share + told.borrowed_share + told.text_share == pytest.approx(1)
    assert told.lenders and told.because and told.readers
    cold = next(one for one in client.get("/items/k0/similar?k=27").json()["items"] if one["segment"] == "cold")
    told = answers.ExplainAnswer(**client.get(f"/items/{cold['item_id']}/explain").json())
    assert told.own_share == 0 and told.borrowed_share > 0 and told.user == told.readers[0].user
    nothing = answers.ExplainAnswer(**client.get("/items/k0/explain?history=").json())
    assert nothing.own_share == nothing.text_share == 0


# ---- telling


def test_feedback_changes_what_the_person_is_shown_at_once(own_client):
    first = ids(own_client.post("/recommendations", json={"user": "u00", "k": 3}))
    told = own_client.post("/feedback", json={"user": "u00", "item_id": first[0], "event": "dismissed"})
    assert answers.FeedbackAnswer(**told.json()) == answers.FeedbackAnswer(event_id=1, n_events=1)
    assert first[0] not in ids(own_client.post("/recommendations", json={"user": "u00", "k": 28}))
    own_client.post("/feedback", json={"user": "stranger", "item_id": "g0"})
    found = ids(own_client.post("/recommendations", json={"user": "stranger", "k": 3}))
    assert "g0" not in found and sum(one.startswith("g") for one in found) >= 2
    assert own_client.get("/items/g1/explain?user=stranger").status_code == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"item_id": "nope"}, 404),
        ({"event": "bought"}, 422),
        ({"time": -1}, 422),
        ({"time": "soon"}, 422),
        ({"user": ""}, 422),
    ],
)
def test_senseless_feedback_is_not_kept(client, change, status):
    before = client.get("/info").json()["n_feedback"]
    assert client.post("/feedback", json={"user": "a", "item_id": "k0", **change}).status_code == status
    assert client.get("/info").json()["n_feedback"] == before


def test_an_id_with_a_comma_can_be_said_in_a_history(own_client):
    own_client.post("/items", json={"items": [{"item_id": "a,b", "title": "Bread saw"}]})
    for asked in ("history=a,b&history=k0,k1", "history=k0&history=k1&history=a,b"):
        assert own_client.get(f"/items/k2/explain?{asked}").status_code == 200
    assert "'b'" in own_client.get("/items/k2/explain?history=k0,b").text


def test_a_new_item_is_found_recommended_and_explained_at_once(own_client):
    name = "new/1 ü?#%"
    path = "/items/new%2F1%20%C3%BC%3F%23%25"
    body = {
        "items": [{"item_id": name, "title": "Bread saw", "description": "Cuts any loaf.", "fields": {"brand": "X"}}]
    }
    told = answers.UpsertAnswer(**own_client.post("/items", json=body).json())
    assert (told.n_new, told.n_changed, told.searchable, told.scored, told.without_text) == (1, 0, True, True, [])
    item = answers.ItemAnswer(**own_client.get(path).json())
    assert item.item_id == name and item.upserted and item.segment == "cold" and item.fields == {"brand": "X"}
    assert name in ids(own_client.get("/search?q=saw%20for%20bread&k=2"))
    assert name in ids(own_client.get("/items/k1/similar?k=3"))
    assert ids(own_client.get(f"{path}/similar?k=2"))[0] == "k1"
    assert name in ids(own_client.get("/suggest?q=saw"))
    assert name in ids(own_client.post("/recommendations", json={"history": ["k0"], "k": 28}))
    assert own_client.get(f"{path}/explain").json()["borrowed_share"] > 0
    assert item.row is None and own_client.get("/items/k1").json()["row"] is not None
    for route in ("related", "together"):
        assert ids(own_client.get(f"{path}/{route}")) == []
    assert own_client.post("/feedback", json={"user": "eve", "item_id": name}).status_code == 200
    assert ids(own_client.post("/recommendations", json={"user": "eve", "k": 1}))[0].startswith("k")


def test_new_words_of_an_item_of_the_run(own_client):
    body = {"items": [{"item_id": "k0", "title": "Grand piano", "description": "Eighty-eight keys for music."}]}
    assert own_client.post("/items", json=body).json()["n_changed"] == 1
    assert ids(own_client.get("/search?q=a%20grand%20piano&k=1")) == ["k0"]
    assert "k0" not in ids(own_client.get("/search?q=frying%20pan&k=3"))
    assert own_client.get("/items/k0").json()["title"] == "Grand piano"
    assert ids(own_client.get("/suggest?q=grand")) == ["k0"] and ids(own_client.get("/suggest?q=frying")) == []
    assert len(ids(own_client.get("/items/k1/similar?k=100"))) == 27
    assert own_client.get("/info").json()["n_items"] == 28


def test_an_item_without_a_word_is_kept_and_near_to_nothing(own_client):
    told = own_client.post("/items", json={"items": [{"item_id": "mute"}]}).json()
    assert told["without_text"] == ["mute"] and told["searchable"]
    assert ids(own_client.get("/items/mute/similar")) == [] and own_client.get("/items/mute").json()["title"] == "mute"
    assert "mute" not in ids(own_client.get("/items/k0/similar?k=100"))


@pytest.mark.parametrize(
    "body",
    [
        b'{"items": [{"item_id": "x", "title": "\\ud800"}]}',
        b'{"items": [{"item_id": "x", "fields": {"a": "\\ud800"}}]}',
        b'{"items": [{"item_id": "x", "fields": {"\\ud800": 1}}]}',
        b'{"items": [{"item_id": "x", "fields": {"a": ' + b"[" * 50 + b"]" * 50 + b"}}]}",
        b"[" * 100_000,
        b'{"items": []}',
        b"\xff\xfe",
        b"",
    ],
)
def test_what_cannot_be_written_down_is_refused(client, body):
    answer = client.post("/items", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and answers.Problem(**answer.json()).error


def test_numbers_that_are_none_come_back_as_nothing(own_client):
    body = b'{"items": [{"item_id": "x", "title": "y", "fields": {"a": NaN, "b": 1e999, "c": ' + b"9" * 100 + b"}}]}"
    assert own_client.post("/items", content=body, headers={"content-type": "application/json"}).status_code == 200
    assert own_client.get("/items/x").json()["fields"] == {"a": None, "b": None, "c": "9" * 100}


def test_many_who_change_items_at_once(own_client):
    def put(n):
        body = {
            "items": [
                {"item_id": f"new{n % 5}", "title": f"Copper kettle {n}"},
                {"item_id": f"own{n}", "title": "A spoon"},
            ]
        }
        return own_client.post("/items", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(put, range(24))) == {200}
    assert own_client.get("/info").json()["n_upserted"] == 29
    found = ids(own_client.get("/search?q=a%20spoon&k=100"))
    assert len(found) == len(set(found)) == 57


# ---- the service


def test_it_says_what_it_serves(client):
    told = answers.InfoAnswer(**client.get("/info").json())
    assert told.n_people == 48 and told.models[:1] == ["hybrid"] and {"popularity", "ease"} <= set(told.models)
    assert sum(told.segments.values()) == 28 and told.dim == 384 and told.encoders == ["run", "base"]
    assert {column.name for column in told.columns} == {"category", "brand"}
    assert answers.ReadyAnswer(**client.get("/ready").json()).ready and client.get("/health").json() == {"status": "ok"}


def test_what_was_shown_is_counted(own_client):
    for _ in range(3):
        own_client.get("/items/k0/similar?k=2")
    told = answers.ExposureAnswer(**own_client.get("/exposure?surface=similar").json())
    assert told.n_shown == 6 and told.coverage == pytest.approx(2 / 28) and told.curve[-1] == (1.0, 1.0)
    shares = told.shares
    assert shares.head + shares.tail + shares.cold == pytest.approx(1, abs=1e-5)
    assert answers.ExposureAnswer(**own_client.get("/exposure?surface=search").json()).n_shown == 0


def test_what_prometheus_reads(own_client):
    empty = own_client.get("/metrics").text
    assert "llm_tail_items 28.0" in empty and "llm_tail_coverage 0.0" in empty
    for n in range(25):
        own_client.get(f"/search?q=thing%20number%20{n}")
    own_client.get("/items/nope")
    told = own_client.get("/metrics").text
    assert 'llm_tail_request_seconds_count{route="/search"} 25.0' in told
    assert 'llm_tail_requests_total{route="/items/{item_id:path}",status="404"} 1.0' in told
    assert 'llm_tail_drift{of="queries",part="mean"}' in told and 'llm_tail_shown_share{segment="cold"}' in told


def test_the_page_and_nothing_beside_it(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert client.get("/page/js/main.js").headers["content-type"].startswith("text/javascript")
    for name in ("../served.py", "%2e%2e/served.py", "..%2Fserved.py", "nothing.js", "", "js"):
        assert client.get(f"/page/{name}").status_code == 404, name


def test_what_is_not_there_is_told_in_our_words(client):
    assert "openapi.json" in client.get("/nothing").json()["error"]
    answer = client.delete("/items")
    assert answer.status_code == 405 and answer.headers["allow"] and "DELETE" in answer.json()["error"]


def test_too_many_who_wait_are_told_to_come_again(shop_copy):
    from llm_tail.service import create_app

    app = create_app(quiet(shop_copy, "serve.threads=1", "serve.max_waiting=1"))
    held, real = threading.Event(), app.state.service.run.item
    app.state.service.run.item = lambda name: (held.wait(10), real(name))[1]
    with TestClient(app) as asked, ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(asked.get, "/items/k0") for _ in range(6)]
        while sum(one.done() for one in waiting) < 4:
            held.wait(0.01)
        held.set()
        statuses = sorted(one.result().status_code for one in waiting)
    assert statuses == [200, 200, 503, 503, 503, 503]


def test_a_run_that_is_not_finished_is_not_served(tmp_path):
    from llm_tail.service import create_app
    from llm_tail.workspace import Workspace
    from tests import shop

    with pytest.raises(StaleArtifactError, match="run: llm-tail embed"):
        create_app(Workspace.open(shop.write(tmp_path)))


def test_two_services_do_not_share_a_state(own_client, shop_copy):
    from llm_tail.service import create_app

    with pytest.raises(DataError, match="held by another service"):
        create_app(quiet(shop_copy))


# ---- filters and ways of searching


def test_filters_hold_in_every_list(own_client):
    new = {"item_id": "saw", "title": "Bread saw", "fields": {"brand": "Halcyon", "category": "kitchen"}}
    moved = {"item_id": "k1", "title": "Bread knife", "fields": {"brand": "Northwind"}}  # no category any more
    own_client.post("/items", json={"items": [new, moved]})
    where = ["category = kitchen", "brand = Halcyon"]
    wanted = {"saw", "k2", "k5"}
    asked = {"where": where, "k": 50}
    assert set(ids(own_client.get("/items/k0/similar", params=asked))) == wanted
    for how in ("vectors", "both"):
        assert set(ids(own_client.get("/search", params={**asked, "q": "bread", "how": how}))) == wanted
    assert ids(own_client.get("/search", params={**asked, "q": "bread", "how": "words"})) == ["saw"]
    assert set(ids(own_client.post("/recommendations", json={"history": ["k0"], **asked}))) == wanted
    assert ids(own_client.get("/items/k0/similar", params={"where": ["brand = Halcyon and brand = Northwind"]})) == []


@pytest.mark.parametrize("where", ["colour = red", "brand", "brand = ", "((", "brand = 'x", "☃" * 5000, ""])
def test_a_filter_that_cannot_be_read_is_told(client, where):
    for answer in (
        client.get("/items/k0/similar", params={"where": where}),
        client.get("/search", params={"q": "x", "where": where}),
        client.post("/recommendations", json={"history": ["k0"], "where": [where]}),
    ):
        assert answer.status_code == 400 and "filter" in answer.json()["error"]


def test_words_are_found_as_they_stand(own_client):
    own_client.post("/items", json={"items": [{"item_id": "x1", "title": "Valve QX-7731", "description": "Steel."}]})
    for how in ("words", "both"):
        assert ids(own_client.get("/search", params={"q": "qx-7731", "how": how}))[0] == "x1"
    assert ids(own_client.get("/search", params={"q": "zzzz", "how": "words"})) == []
    own_client.post("/items", json={"items": [{"item_id": "x1", "title": "Valve"}]})
    assert ids(own_client.get("/search", params={"q": "qx-7731", "how": "words"})) == []


def test_the_map_gets_communities_as_soon_as_it_is_drawn(client):
    service = client.app.state.service
    service.run.draw()
    told = answers.MapAnswer(**client.get("/map").json())
    assert told.kind != "pca" or told.community.names
    node = answers.GraphAnswer(**client.get("/graph/k0").json()).nodes[0]
    assert node.community >= 0 and client.get("/info").json()["communities"] == len(told.community.names) > 0


def test_a_catalogue_without_people_is_served_as_far_as_it_goes(shop_copy):
    from llm_tail.service import create_app
    from llm_tail.workspace import Workspace

    Workspace.open(shop_copy, ["data.interactions=''"]).run()
    with TestClient(create_app(quiet(shop_copy, "data.interactions=''")), raise_server_exceptions=False) as asked:
        told = answers.InfoAnswer(**asked.get("/info").json())
        assert told.n_people == 0 and told.models == [] and told.segments == {}
        assert asked.get("/items/k0").json()["segment"] is None and len(ids(asked.get("/items/k0/similar?k=3"))) == 3
        upserted = asked.post("/items", json={"items": [{"item_id": "saw", "title": "Bread saw"}]}).json()
        assert upserted["searchable"] and not upserted["scored"]
        assert asked.post("/feedback", json={"user": "eve", "item_id": "saw"}).status_code == 200
        for answer in (
            asked.get("/items/k0/together"),
            asked.get("/items/k0/explain"),
            asked.post("/recommendations", json={"history": ["k0"]}),
        ):
            assert answer.status_code == 409 and "interactions" in answer.json()["error"]
        assert answers.ExposureAnswer(**asked.get("/exposure").json()).shares.cold == 0
        assert answers.MapAnswer(**asked.get("/map").json()).segment.names == []
        assert "llm_tail_items 29.0" in asked.get("/metrics").text
