import base64

import numpy as np

from llm_tail.data.segments import Segments
from llm_tail.service.answers import MapAnswer
from llm_tail.service.places import Places, by_components


def unpacked(column):
    return np.frombuffer(base64.b64decode(column.data), dtype=column.dtype).astype(float)


def test_places_come_back_to_a_step():
    points = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    groups = np.arange(50) % 4 - 1
    told = MapAnswer(**Places(points, groups, ["a", "b", "c"], "umap").answer(Segments.from_counts(np.arange(50))))
    for column, values in ((told.x, points[:, 0]), (told.y, points[:, 1])):
        again = column.low + unpacked(column) / 65_535 * (column.high - column.low)
        np.testing.assert_allclose(again, values, atol=2e-4)
    assert unpacked(told.community)[:5].tolist() == [65_535, 0, 1, 2, 65_535]
    assert told.segment.names == ["head", "tail", "cold"] and unpacked(told.segment)[[0, 49]].tolist() == [2, 0]


def test_sixty_thousand_items_are_one_answer_of_half_a_megabyte():
    points = np.zeros((60_000, 2), dtype=np.float32)
    told = Places(points, np.full(60_000, -1), (), "pca").answer(None)
    assert len(MapAnswer(**told).model_dump_json()) < 600_000


def test_components_are_the_directions_that_differ_most():
    vectors = np.diag([1.0, 10.0, 5.0]).astype(np.float32)[[0, 1, 2, 1]] * np.array([[1], [1], [1], [-1]])
    points = by_components(vectors).points
    assert abs(points[1, 0] - points[3, 0]) > 19
    assert by_components(np.zeros((3, 1), dtype=np.float32)).points.tolist() == [[0, 0]] * 3
