"""What every runtime has to hold, whatever runs inside it."""

import numpy as np
import pytest

from llm_tail.embedding.runtimes import Runtime, open_runtime
from llm_tail.errors import ConfigError, DataError, StaleArtifactError

TEXTS = [
    "a novel about a white whale and the captain who hunts it",
    "sea mammals",
    "an iron frying pan for eggs, steel handle",
    "kitchen knives of steel, a set of three with a wooden block and a sharpener " * 3,
    "Emma. A novel of manners by Jane Austen.",
    "whale",
]


class RuntimeContract:
    """Inherit, and give `runtime` and `tolerance`: the most that a component may move with another batch."""

    tolerance = 1e-6

    def test_it_is_a_runtime(self, runtime):
        assert isinstance(runtime, Runtime)
        assert runtime.dim > 0 and runtime.max_tokens > 0 and runtime.fingerprint and runtime.precision

    def test_vectors_have_length_one_and_float32(self, runtime):
        vectors = runtime.encode(TEXTS)
        assert vectors.shape == (len(TEXTS), runtime.dim) and vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_near_texts_lie_near(self, runtime):
        whale, pan, asked = runtime.encode([TEXTS[0], TEXTS[2], "a captain hunts a whale"])
        assert asked @ whale > asked @ pan

    def test_a_text_does_not_depend_on_its_batch(self, runtime):
        together = runtime.encode(TEXTS)
        alone = np.concatenate([runtime.encode([text]) for text in TEXTS])
        turned = runtime.encode(TEXTS[::-1], batch_tokens=64)[::-1]
        np.testing.assert_allclose(alone, together, atol=self.tolerance)
        np.testing.assert_allclose(turned, together, atol=self.tolerance)

    def test_the_same_call_gives_the_same_bytes(self, runtime):
        np.testing.assert_array_equal(runtime.encode(TEXTS), runtime.encode(TEXTS))

    def test_no_texts_and_texts_without_words(self, runtime):
        assert runtime.encode([]).shape == (0, runtime.dim)
        assert not runtime.encode(["", "  \n"]).any()

    @pytest.mark.parametrize("wrong", [b"whale", 7, None, 1.5])
    def test_what_is_no_text_is_refused(self, runtime, wrong):
        with pytest.raises(DataError, match=rf"text 1 is {type(wrong).__name__}, expected str"):
            runtime.encode(["whale", wrong])

    @pytest.mark.parametrize("wrong", ["whale", b"whale"])
    def test_one_text_is_no_list(self, runtime, wrong):
        with pytest.raises(DataError, match="put it into a list"):
            runtime.encode(wrong)

    def test_a_megabyte_is_cut(self, runtime):
        (vector,), (count,) = runtime.encode_counted(["a whale of a book " * 60_000])
        np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-5)
        assert count >= 300_000

    def test_a_megabyte_without_a_space_is_no_trap(self, runtime):
        assert np.isfinite(runtime.encode(["whale" * 200_000])).all()

    def test_half_characters_do_no_harm(self, runtime):
        assert np.isfinite(runtime.encode(["a \ud800 whale", "\udfff"])).all()

    def test_an_unknown_kind_is_refused(self, runtime):
        with pytest.raises(ConfigError, match="expected 'document' or 'query'"):
            runtime.encode(["whale"], kind="question")

    def test_counts_come_with_the_vectors(self, runtime):
        vectors, counts = runtime.encode_counted(TEXTS)
        np.testing.assert_array_equal(vectors, runtime.encode(TEXTS))
        np.testing.assert_array_equal(counts, runtime.token_counts(TEXTS))

    def test_saved_and_opened_it_is_the_same(self, runtime, tmp_path):
        if runtime.runtime == "torch":
            pytest.skip("the encoder has folders of its own: save, save_adapter")
        again = open_runtime(runtime.save(tmp_path / "runtime", "made-from-this"), "made-from-this")
        assert again.fingerprint == runtime.fingerprint and repr(again) == repr(runtime)
        assert (again.dim, again.max_tokens, again.precision) == (runtime.dim, runtime.max_tokens, runtime.precision)
        np.testing.assert_allclose(again.encode(TEXTS), runtime.encode(TEXTS), atol=self.tolerance)
        np.testing.assert_array_equal(again.token_counts(TEXTS), runtime.token_counts(TEXTS))
        with pytest.raises(StaleArtifactError, match="made from other inputs"):
            open_runtime(tmp_path / "runtime", "made-from-that")
