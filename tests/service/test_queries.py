import threading
import time

import numpy as np
import pytest

from llm_tail.embedding.tfidf import TfidfEncoder
from llm_tail.errors import DataError
from llm_tail.service.queries import QueryEncoder
from tests import shop

TEXTS = [" ".join(row) for row in shop.items()[["title", "description"]].to_numpy()]


class Watched:
    """A real runtime that notes what it is asked, and waits where a test wants it to."""

    def __init__(self):
        self.inner = TfidfEncoder.fit(TEXTS)
        self.calls, self.gate = [], threading.Event()
        self.gate.set()

    dim = property(lambda self: self.inner.dim)

    def encode(self, texts, *, kind="document", **rest):
        self.gate.wait(5)
        self.calls.append((kind, list(texts)))
        if "boom" in texts:
            raise DataError("boom")
        return self.inner.encode(texts, kind=kind, **rest)


@pytest.fixture
def encoder():
    one = QueryEncoder(Watched(), cache=3)
    yield one
    one.runtime.gate.set()
    one.close()


def test_the_vector_is_that_of_the_runtime(encoder):
    vector = encoder.ask("bread  knife ").result()
    np.testing.assert_allclose(vector, encoder.runtime.inner.encode(["bread knife"], kind="query")[0], atol=1e-6)


def test_what_was_asked_before_is_remembered_and_the_oldest_forgotten(encoder):
    for text in ("a knife", "a pan", "a knife", "a hose", "a rake", "a pan"):
        encoder.ask(text).result()
    asked = [text for _, texts in encoder.runtime.calls for text in texts]
    assert asked == ["a knife", "a pan", "a hose", "a rake", "a pan"]
    assert (encoder.n_asked, encoder.n_known, len(encoder.recent)) == (6, 1, 6)


def test_those_who_wait_share_a_batch_and_go_before_new_items(encoder):
    encoder.runtime.gate.clear()
    first = encoder.ask("first")
    while encoder.n_waiting:  # until the encoder has taken it
        time.sleep(0.001)
    late = threading.Thread(target=encoder.documents, args=([f"item {n}" for n in range(20)],))
    late.start()
    while encoder.n_waiting < 3:  # the pieces of the documents
        time.sleep(0.001)
    questions = [encoder.ask(f"question {n}") for n in range(10)]
    encoder.runtime.gate.set()
    for one in (first, *questions):
        one.result()
    late.join()
    kinds = [(kind, len(texts)) for kind, texts in encoder.runtime.calls]
    assert kinds == [("query", 1), ("query", 10), ("document", 8), ("document", 8), ("document", 4)]


def test_documents_keep_their_order(encoder):
    texts = TEXTS[:19]
    np.testing.assert_allclose(encoder.documents(texts), encoder.runtime.inner.encode(texts), atol=1e-6)
    assert encoder.documents([]).shape == (0, encoder.runtime.dim)


def test_an_error_reaches_who_asked_and_nobody_else(encoder):
    with pytest.raises(DataError, match="boom"):
        encoder.ask("boom").result()
    assert encoder.ask("a knife").result().any()


def test_after_the_end_it_says_so(encoder):
    encoder.close()
    with pytest.raises(DataError, match="no longer served"):
        encoder.ask("a knife").result()
