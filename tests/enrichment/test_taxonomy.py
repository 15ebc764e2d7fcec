import numpy as np
import pytest

from llm_tail.data.catalog import Catalog
from llm_tail.embedding.embeddings import Embeddings
from llm_tail.enrichment.taxonomy import Taxonomy, category_columns
from llm_tail.errors import ConfigError, DataError

N = 240
KINDS = ["hammer", "novel", "skillet"]


def shop(noise=0.1, seed=0):
    """Three kinds of items in three corners, every tenth without its kind; a column of chance beside."""
    rng = np.random.default_rng(seed)
    kinds = [KINDS[i % 3] for i in range(N)]
    rows = [
        {"item_id": str(i), "kind": None if i % 10 == 0 else kind, "mood": ["dull", "merry"][int(rng.integers(2))]}
        for i, kind in enumerate(kinds)
    ]
    vectors = np.eye(4)[[KINDS.index(kind) for kind in kinds]] + rng.normal(0, noise, (N, 4))
    catalog = Catalog.from_items(rows)
    return catalog, Embeddings(catalog.ids, vectors), kinds


def test_hidden_categories_are_found_again():
    catalog, embeddings, kinds = shop()
    taxonomy = Taxonomy.learn(catalog, embeddings, ["kind"])
    missing = np.arange(0, N, 10)
    for row, found in zip(missing, taxonomy.guess(embeddings.vectors[missing]), strict=True):
        assert [one.value for one in found] == [kinds[row]] and found[0].confidence > 0.9
    report = taxonomy.report[0]
    assert report.precision == 1.0 and report.coverage == 1.0 and report.n_known == N - len(missing)
    assert "of these right" in str(report)


def test_what_cannot_be_told_is_not_told():
    catalog, embeddings, _ = shop()
    taxonomy = Taxonomy.learn(catalog, embeddings, ["mood"])
    assert not any(taxonomy.guess(embeddings.vectors)) and taxonomy.report[0].coverage < 0.05


def test_confidence_is_the_share_that_is_right():
    catalog, embeddings, kinds = shop(noise=0.6, seed=3)
    taxonomy = Taxonomy.learn(catalog, embeddings, ["kind"])
    fresh = shop(noise=0.6, seed=4)[1]
    told = [
        (one, kinds[row]) for row, each in enumerate(taxonomy.guess(fresh.vectors, min_confidence=0.0)) for one in each
    ]
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        part = [(one.confidence, one.value == kind) for one, kind in told if low <= one.confidence < high]
        if len(part) > 30:
            said, right = np.mean(part, axis=0)
            assert abs(said - right) < 0.12


def test_confidence_for_thin_texts_is_learned_from_thin_texts():
    catalog, embeddings, _ = shop()
    rng = np.random.default_rng(1)
    thin = Embeddings(catalog.ids, embeddings.vectors + rng.normal(0, 1.0, embeddings.vectors.shape))
    probe = embeddings.vectors[:30]
    sure = Taxonomy.learn(catalog, embeddings, ["kind"]).guess(probe, min_confidence=0.0, most=1)
    unsure = Taxonomy.learn(catalog, embeddings, ["kind"], thin=thin).guess(probe, min_confidence=0.0, most=1)
    assert np.mean([one[0].confidence for one in unsure]) < np.mean([one[0].confidence for one in sure])


def test_lists_have_several_right_values():
    rng = np.random.default_rng(0)
    rows = [{"item_id": str(i), "genres": ["war", "love"] if i % 2 else ["crime"]} for i in range(120)]
    catalog = Catalog.from_items(rows)
    vectors = np.array([[1.0, 0.0] if i % 2 else [0.0, 1.0] for i in range(120)]) + rng.normal(0, 0.05, (120, 2))
    taxonomy = Taxonomy.learn(catalog, Embeddings(catalog.ids, vectors), ["genres"])
    found = taxonomy.guess(np.array([[1.0, 0.0]]), min_confidence=0.6)[0]
    assert {one.value for one in found} == {"war", "love"}


def test_an_item_without_words_gets_no_guess_and_too_few_known_ones_give_none():
    catalog, embeddings, _ = shop()
    assert Taxonomy.learn(catalog, embeddings, ["kind"]).guess(np.zeros((1, 4))) == [[]]
    few = catalog.take(np.arange(1, 13))
    taxonomy = Taxonomy.learn(few, embeddings.on(few), ["kind"])
    assert taxonomy.guess(embeddings.vectors[:5]) == [[]] * 5 and np.isnan(taxonomy.report[0].precision)


def test_columns_that_are_no_categories_are_passed_over():
    rows = [
        {
            "item_id": str(i),
            "kind": KINDS[i % 3],
            "isbn": f"isbn {i}",
            "price": 1.5,
            "generated_summary": "x",
            "subjects": ["a", "b"],
            "user_tags": ["c"],
            "cites": [str(i % 5), "9"],
        }
        for i in range(30)
    ]
    assert category_columns(Catalog.from_items(rows)) == ["kind", "subjects"]


def test_settings_and_columns_are_checked():
    catalog, embeddings, _ = shop()
    with pytest.raises(DataError, match="no column 'kinds'"):
        Taxonomy.learn(catalog, embeddings, ["kinds"])
    with pytest.raises(ConfigError, match="min_items is 0"):
        Taxonomy.learn(catalog, embeddings, ["kind"], min_items=0)
    assert repr(Taxonomy.learn(catalog, embeddings, ["kind"])) == "Taxonomy(kind 3)"


def test_the_same_again():
    catalog, embeddings, _ = shop(noise=0.4)
    first, second = (Taxonomy.learn(catalog, embeddings, ["kind"], seed=5) for _ in range(2))
    assert first.guess(embeddings.vectors) == second.guess(embeddings.vectors) and first.report == second.report
