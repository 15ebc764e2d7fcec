import numpy as np
import pytest

import llm_tail as lt
from llm_tail.data.ids import IdMap
from llm_tail.service.journal import StoredEvent
from llm_tail.service.people import People, history_of, shown_to, taken_by


def told(people, *events):
    for number, (user, item_id, event) in enumerate(events):
        people.note(StoredEvent(number, user, item_id, event, 0.0))
    return people


@pytest.fixture(scope="module")
def hybrid():
    """ann took c, then a, then b."""
    users, items = IdMap(["ann", "bob"], "user"), IdMap(list("abcd"))
    train = lt.Interactions(users, items, [0, 0, 0, 1, 1], [2, 0, 1, 1, 3], times=[1, 2, 3, 1, 2])
    words = lt.Embeddings("abcd", np.eye(4))
    return lt.HybridRecommender({"tune": False, "learn": False, "recency": 0.5}).fit(train, words)


def test_what_was_taken_lengthens_the_history_and_stays_in_order():
    people = told(
        People(), ("ann", "d", "taken"), ("ann", "a", "liked"), ("ann", "d", "clicked"), ("ann", "x", "viewed")
    )
    assert people.since("ann").taken == ("a", "d") and people.since("ann").n_events == 4 and people.n_events == 4


def test_what_was_dismissed_is_gone_until_it_is_taken_after_all():
    people = told(People(), ("ann", "d", "taken"), ("ann", "d", "dismissed"))
    assert people.since("ann").taken == () and people.since("ann").hidden == {"d"}
    told(people, ("ann", "d", "taken"))
    assert people.since("ann").taken == ("d",) and not people.since("ann").hidden


def test_histories_of_the_run_come_in_the_order_of_taking(hybrid):
    assert taken_by(hybrid, "ann") == ["c", "a", "b"] and taken_by(hybrid, "eve") == []


def test_feedback_comes_after_the_run(hybrid):
    people = told(People(), ("ann", "c", "taken"), ("ann", "b", "dismissed"), ("ann", "gone", "taken"))
    assert history_of(hybrid, "ann", people.since("ann"), hybrid.items) == ["a", "c"]
    assert shown_to(hybrid, "ann", people.since("ann")).tolist() == [False, False, False, True]
    assert shown_to(hybrid, "eve", people.since("eve")).all()
