import errno
import json
import os
import random
import signal
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm_tail.embedding import training
from llm_tail.embedding.adapters import tuned_weights
from llm_tail.embedding.checkpoints import COMPLETE, last_whole_checkpoint
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.finetune import EVENTS, _events_in, finetune
from llm_tail.embedding.training import WEIGHTS, PairTrainer, TrainingLog, rate
from llm_tail.errors import ConfigError, DataError
from tests.embedding.test_finetune import SMALL, TEXTS, make_pairs

OFTEN = SMALL.replace(checkpoints=4)  # 20 steps: after 4, 8, 12, 16 and 20
RICH = OFTEN.replace(
    hard_negatives=1, negative_ranks=(1, 6), negative_margin=2.0, word_dropout=0.3, dropout=0.2, soft_labels=0.5
)


class Killed(Exception):
    pass


def weights(encoder):
    return {n: w.numpy() for n, w in tuned_weights(encoder.model, encoder.tuning).items()}


def assert_same(first, second, atol=1e-4):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys() and first
    for name, weight in first.items():
        np.testing.assert_allclose(weight, second[name], atol=atol, rtol=0)


def killed_at(step, patch, steps=None):
    """Let training end as by a kill, in the midst of a step."""
    original = PairTrainer.training_step

    def failing(self, model, inputs, *more):
        if steps is not None:
            steps.append(inputs["step"])
        if inputs["step"] == step:
            raise Killed
        return original(self, model, inputs, *more)

    patch.setattr(PairTrainer, "training_step", failing)


def place_of(folder):
    (place,) = folder.iterdir()
    return place


# ---- cached gradients


@pytest.mark.parametrize(
    "more", [{"learning_rate": 1e-3}, {"learning_rate": 1e-3, "dropout": 0.3, "matryoshka": [8], "noise": 0.1}]
)
def test_cached_gradients_give_the_same_adapter(decoder, monkeypatch, more):
    monkeypatch.setattr(training, "PART_TOKENS", 6)
    config = SMALL.replace(**more)
    whole, cached = (finetune(decoder, make_pairs(), config.replace(hold_tokens=n)) for n in (32_768, 0))
    assert_same(whole, cached, atol=1e-5)
    assert whole.training.losses == pytest.approx(cached.training.losses, abs=1e-5)


def test_cached_gradients_hold_less(decoder, monkeypatch):
    monkeypatch.setattr(training, "PART_TOKENS", 6)
    held, peaks = {}, {}

    class Packed:
        def __init__(self, tensor):
            self.tensor = tensor
            held[id(self)] = tensor.numel()
            peaks[now] = max(peaks.get(now, 0), sum(held.values()))
            weakref.finalize(self, held.pop, id(self))

    for now in (32_768, 0):
        with torch.autograd.graph.saved_tensors_hooks(Packed, lambda packed: packed.tensor):
            finetune(decoder, make_pairs(16), SMALL.replace(hold_tokens=now))
    assert peaks[0] < 0.6 * peaks[32_768]


def test_only_the_update_has_dropout_and_only_in_training(bert_folder):
    encoder = Encoder.load(bert_folder, precision="fp32").with_adapter(SMALL.replace(dropout=0.5))
    training.learning_mode(encoder)
    on = [name for name, module in encoder.model.named_modules() if module.training]
    assert on and all("lora_dropout" in name for name in on)
    with training.training_mode(encoder):
        assert encoder.model[0].model.get_base_model().config._attn_implementation == "eager"
        training.learning_mode(encoder)
    assert not any(module.training for module in encoder.model.modules())
    assert encoder.model[0].model.get_base_model().config._attn_implementation == "sdpa"


def test_measuring_on_the_way_changes_nothing_for_training(decoder):
    def noisy(encoder):
        torch.manual_seed(1)
        encoder.encode(TEXTS)  # switches dropout off
        return {"recall": 1.0 - torch.rand(1).item()}

    config = SMALL.replace(dropout=0.4, validations=5, patience=9)
    plain, watched = (finetune(decoder, make_pairs(), config, validate=v) for v in (None, noisy))
    assert plain.training.losses == pytest.approx(watched.training.losses, abs=1e-6)


# ---- killed and resumed

KILLED = """
import os, signal, sys
from pathlib import Path
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.finetune import finetune
from tests.embedding.test_training import OFTEN, make_pairs
def killed(encoder):
    os.kill(os.getpid(), signal.SIGKILL)
base, folder = sys.argv[1:]
finetune(Encoder.load(base, precision="fp32"), make_pairs(), OFTEN.replace(validations=2), checkpoints=folder,
    validate=killed)
"""


def test_killed_by_the_system_and_resumed(decoder, decoder_folder, tmp_path):
    call = [sys.executable, "-c", KILLED, str(decoder_folder), str(tmp_path)]
    killed = subprocess.run(call, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert last_whole_checkpoint(place_of(tmp_path)).name == "checkpoint-8"
    config = OFTEN.replace(validations=2)
    whole = finetune(decoder, make_pairs(), config)
    assert_same(finetune(decoder, make_pairs(), config, checkpoints=tmp_path), whole)


@pytest.fixture(scope="module")
def rich(decoder):
    return finetune(decoder, make_pairs(), RICH)


@pytest.mark.parametrize(
    "step", [9, *(pytest.param(n, marks=pytest.mark.slow) for n in (7, 18))]
)  # negatives are made anew before step 10
def test_resumed_with_everything_switched_on(decoder, rich, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(step, patch)
        finetune(decoder, make_pairs(), RICH, checkpoints=tmp_path)
    steps = []
    with monkeypatch.context() as patch:
        killed_at(None, patch, steps)
        resumed = finetune(decoder, make_pairs(), RICH, checkpoints=tmp_path, folder=tmp_path / "adapter")
    assert steps == list(range(step // 4 * 4, 20))
    assert_same(resumed, rich)
    assert resumed.training.losses == pytest.approx(rich.training.losses, abs=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_resumed_in_bf16_while_texts_stay_true_to_the_base(decoder_folder, tmp_path, monkeypatch):
    """In bf16 a vector depends on what it is batched with: that of the base is to be the same after a restart."""
    encoder, config = Encoder.load(decoder_folder, precision="bf16"), OFTEN.replace(keep=5.0, others=2, batch_size=4)
    whole = finetune(encoder, make_pairs(80), config)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(9, patch)
        finetune(encoder, make_pairs(80), config, checkpoints=tmp_path)
    resumed = finetune(encoder, make_pairs(80), config, checkpoints=tmp_path)
    assert resumed.training.losses == whole.training.losses
    assert_same(resumed, whole, atol=0)


def scores(*values):
    """A measure that gives these values in turn; kept by step, as a real one depends on the weights alone."""
    seen = {}

    def validate(encoder):
        key = encoder.encode(TEXTS).round(3).tobytes()
        return {"tail": seen.setdefault(key, values[len(seen)]), "cold": 0.0}

    return validate


def test_the_best_and_the_patience_survive_a_restart(decoder, tmp_path, monkeypatch):
    config, values = OFTEN.replace(validations=10, patience=4), (0.1, 0.2, 0.9, 0.3, 0.3, 0.3, 0.3, 1.0, 1.0, 1.0)
    whole = finetune(decoder, make_pairs(), config, validate=scores(*values))
    validate = scores(*values)
    for step in (9, 13):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_at(step, patch)
            finetune(decoder, make_pairs(), config, checkpoints=tmp_path, validate=validate)
    resumed = finetune(decoder, make_pairs(), config, checkpoints=tmp_path, validate=validate)
    assert whole.training.best_step == resumed.training.best_step == 6
    assert len(whole.training.steps) == len(resumed.training.steps) == 14  # four without a gain after the sixth
    assert resumed.training.validations == whole.training.validations
    assert_same(resumed, whole)


def test_what_is_not_saved_yet_is_not_lost(decoder, tmp_path, monkeypatch):
    """A kill between training and saving: the caller, who has no folder yet, asks again."""
    first = finetune(decoder, make_pairs(), OFTEN, checkpoints=tmp_path / "checkpoints")
    steps = []
    with monkeypatch.context() as patch:
        killed_at(None, patch, steps)
        again = finetune(decoder, make_pairs(), OFTEN, checkpoints=tmp_path / "checkpoints")
        assert steps == [] and again.training.losses == first.training.losses
        assert_same(again, first, atol=0)
        finetune(decoder, make_pairs(), OFTEN, checkpoints=tmp_path / "checkpoints", folder=tmp_path / "adapter")
    assert steps == [] and not list((tmp_path / "checkpoints").iterdir())


# ---- event files


def test_where_event_files_go(decoder, tmp_path, monkeypatch):
    monkeypatch.delenv(EVENTS, raising=False)
    with _events_in(tmp_path):
        assert os.environ[EVENTS] == str(tmp_path)
        with _events_in(tmp_path / "other"):  # what the user has set wins
            assert os.environ[EVENTS] == str(tmp_path)
    assert EVENTS not in os.environ
    with _events_in(None):
        assert EVENTS not in os.environ


def test_event_files_stay(decoder, tmp_path):
    pytest.importorskip("tensorboard")
    config = SMALL.replace(log_to=["jsonl", "tensorboard"])
    finetune(decoder, make_pairs(16), config, folder=tmp_path / "adapter", checkpoints=tmp_path / "checkpoints")
    assert len(list(tmp_path.glob("tensorboard/*/events*"))) == 1
    with pytest.raises(ConfigError, match="give finetune a folder"):
        finetune(decoder, make_pairs(16), config)


# ---- checkpoints that are none


def interrupted(decoder, folder, monkeypatch, step=14, config=OFTEN):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(step, patch)
        finetune(decoder, make_pairs(), config, checkpoints=folder)
    return place_of(folder)


@pytest.mark.parametrize("harm", ["cut", *(pytest.param(x, marks=pytest.mark.slow) for x in ("unmarked", "lost"))])
def test_a_half_written_checkpoint_is_left_aside(decoder, tmp_path, monkeypatch, harm):
    place = interrupted(decoder, tmp_path, monkeypatch)
    newest = place / "checkpoint-12"
    assert last_whole_checkpoint(place) == newest
    if harm == "cut":
        data = (newest / "optimizer.pt").read_bytes()
        (newest / "optimizer.pt").write_bytes(data[: len(data) // 2])
    elif harm == "unmarked":
        (newest / COMPLETE).unlink()
    else:
        (newest / WEIGHTS).unlink()
    assert last_whole_checkpoint(place) == place / "checkpoint-8"
    resumed = finetune(decoder, make_pairs(), OFTEN, checkpoints=tmp_path)
    assert_same(resumed, finetune(decoder, make_pairs(), OFTEN))


def test_other_settings_pairs_and_seeds_begin_anew(decoder, tmp_path, monkeypatch):
    place = interrupted(decoder, tmp_path, monkeypatch)
    for pairs, config, seed in (
        (make_pairs(), OFTEN.replace(temperature=0.07), 0),
        (make_pairs(seed=1), OFTEN, 0),
        (make_pairs(), OFTEN, 1),
    ):
        steps = []
        with monkeypatch.context() as patch:
            killed_at(None, patch, steps)
            finetune(decoder, pairs, config, seed=seed, checkpoints=tmp_path)
        assert steps == list(range(20))
    assert last_whole_checkpoint(place).name == "checkpoint-12"


def test_a_full_disk_is_said_and_the_last_whole_checkpoint_stays(decoder, tmp_path, monkeypatch):
    save, calls = training.save_file, []

    def full(tensors, path, *more):
        calls.append(path)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(tensors, path, *more)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(training, "save_file", full)
        finetune(decoder, make_pairs(), OFTEN, checkpoints=tmp_path, folder=tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    assert last_whole_checkpoint(place_of(tmp_path)).name == "checkpoint-8"
    assert_same(finetune(decoder, make_pairs(), OFTEN, checkpoints=tmp_path), finetune(decoder, make_pairs(), OFTEN))


@pytest.mark.parametrize("kilobytes", [10, 40])  # of a file: less than the weights, less than the optimizer
def test_files_that_cannot_be_written(decoder, tmp_path, kilobytes):
    resource = pytest.importorskip("resource")
    limits, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 * kilobytes, limits[1]))
        with pytest.raises(OSError, match=place_name(tmp_path)):
            finetune(decoder, make_pairs(), OFTEN, checkpoints=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, heard)
    assert last_whole_checkpoint(place_of(tmp_path)) is None


def place_name(folder):
    return folder.name


def test_no_checkpoints_are_asked_for(decoder, tmp_path, monkeypatch):
    place = interrupted(decoder, tmp_path, monkeypatch, config=OFTEN.replace(checkpoints=0))
    assert not list(place.iterdir())
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    finetune(decoder, make_pairs(16), SMALL)  # nothing at all is written where no folder is given
    assert sorted(tmp_path.rglob("*")) == before
    assert last_whole_checkpoint(tmp_path / "none") is None


# ---- several processes

SHARED = """
import sys
from pathlib import Path
from llm_tail.embedding.encoder import Encoder
from llm_tail.embedding.finetune import finetune
from llm_tail.embedding import training
from tests.embedding.test_training import SHARED_CONFIG, make_pairs
training.PART_TOKENS = 6
base, folder = sys.argv[1:]
writes = []
original = Encoder.save_adapter
def counted(self, folder):
    writes.append(folder)
    return original(self, folder)
Encoder.save_adapter = counted
for hold in (32768, 0):
    config = SHARED_CONFIG.replace(hold_tokens=hold)
    finetune(Encoder.load(base, precision="fp32", device="cpu"), make_pairs(), config,
        checkpoints=Path(folder) / "checkpoints", folder=Path(folder) / f"adapter-{hold}")
import os
Path(folder, f"rank-{os.environ['RANK']}").write_text(str(len(writes)))
"""
# Gentle steps: steep ones make much of how sums are rounded, which differs between one process and two.
SHARED_CONFIG = OFTEN.replace(
    learning_rate=1e-3, hard_negatives=1, negative_ranks=(1, 6), negative_margin=2.0, word_dropout=0.3
)


def test_two_processes_learn_what_one_does(decoder, decoder_folder, tmp_path):
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*call, str(script), str(decoder_folder), str(tmp_path)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    alone = finetune(decoder, make_pairs(), SHARED_CONFIG)
    for hold in (32_768, 0):
        folder = tmp_path / f"adapter-{hold}"
        together = Encoder.load(decoder_folder, adapter=folder, precision="fp32")
        assert_same(together, alone)
        (log,) = folder.rglob("training.jsonl")
        losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()[1:]]
        assert losses == pytest.approx(alone.training.losses, abs=1e-4)
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["2", "0"]
    assert not list((tmp_path / "checkpoints").iterdir())


# ---- validation on the way


def test_validated_so_many_times_and_the_best_is_kept(decoder):
    kept, log = [], []

    def validate(encoder):
        kept.append({n: w.copy() for n, w in weights(encoder).items()})
        log.append(len(kept))
        return {"warm": [0.1, 0.5, 0.2, 0.3][len(kept) - 1], "tail": 0.3}

    tuned = finetune(decoder, make_pairs(), SMALL.replace(validations=4, patience=4), validate=validate)
    assert [entry["step"] for entry in tuned.training.validations] == [5, 10, 15, 20] and len(kept) == 4
    assert tuned.training.validations[1]["validation_warm"] == 0.5
    assert tuned.training.validations[1]["validation"] == pytest.approx(0.4)
    assert tuned.training.best_step == 10 and len(tuned.training.steps) == 20
    for name, weight in weights(tuned).items():
        np.testing.assert_array_equal(weight, kept[1][name])
    assert any((weights(tuned)[name] != last).any() for name, last in kept[3].items())


def test_stops_when_patience_is_through(decoder):
    values = iter([0.1, 0.5, 0.4, 0.4, 0.4])
    tuned = finetune(
        decoder, make_pairs(), SMALL.replace(validations=10, patience=2), validate=lambda _: {"recall": next(values)}
    )
    assert len(tuned.training.steps) == 8 and len(tuned.training.validations) == 4 and tuned.training.best_step == 4


def broken_after(monkeypatch, step, what):
    original = PairTrainer.training_step

    def broken(self, model, inputs, *more):
        if inputs["step"] == step:
            if what == "loss":
                self.pair_loss = lambda batch: batch.anchors.sum() * torch.nan
            else:  # the loss is a number, and what is pulled back from it is none
                self.pair_loss = lambda batch: (batch.anchors * 0).sum().abs().sqrt()
        return original(self, model, inputs, *more)

    monkeypatch.setattr(PairTrainer, "training_step", broken)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("step", [12, 19])
def test_no_number_after_a_validation_keeps_the_best(decoder, monkeypatch, what, step):
    kept = []

    def validate(encoder):
        kept.append({n: w.copy() for n, w in weights(encoder).items()})
        return {"recall": 0.5}

    broken_after(monkeypatch, step, what)
    with pytest.warns(UserWarning, match=rf"the {what} became nan at step {step + 1} of 20; the weights of step 5"):
        tuned = finetune(decoder, make_pairs(), SMALL.replace(validations=4, patience=9), validate=validate)
    assert tuned.training.best_step == 5 and f"step {step + 1}" in tuned.training.note
    for name, weight in weights(tuned).items():
        np.testing.assert_array_equal(weight, kept[0][name])


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_no_number_before_a_validation_is_an_error(decoder, monkeypatch, what):
    broken_after(monkeypatch, 3, what)
    with pytest.raises(DataError, match=rf"the {what} became nan at step 4 of 20; nothing was saved; try a smaller"):
        finetune(decoder, make_pairs(), SMALL, validate=lambda _: {"recall": 0.5})


def test_the_random_state_of_the_process_is_left_alone(decoder, tmp_path):
    def state():
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)

    def drawn():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    state()
    expected = drawn()
    state()
    finetune(decoder, make_pairs(32), RICH, checkpoints=tmp_path, validate=lambda _: {"recall": 1.0})
    assert drawn() == expected
    state()
    with pytest.raises(ZeroDivisionError):
        finetune(decoder, make_pairs(32), RICH, validate=lambda _: 1 / 0)
    assert drawn() == expected


# ---- small things


def test_the_learning_rate_climbs_and_falls():
    rates = [rate(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == rates[10] == 1.0 and rates[100] == 0.0
    assert (np.diff(rates[:10]) >= 0).all() and (np.diff(rates[10:]) <= 0).all()
    assert rate(0, 10, 0.0) == 1.0 and rate(0, 1, 1.0) == 1.0


def test_the_log(tmp_path):
    log = TrainingLog([{"step": 1, "loss": 2.0}], [{"step": 1, "validation": 0.5}], {"n": 3}, 1, "")
    lines = [json.loads(line) for line in log.write(tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0] == {"provenance": {"n": 3}, "best_step": 1, "note": ""}
    assert lines[1:] == [{"step": 1, "loss": 2.0}, {"validation": {"step": 1, "validation": 0.5}}]
    assert repr(log) == "TrainingLog(1 steps, loss 2.000 -> 2.000)" and repr(TrainingLog()) == "TrainingLog(0 steps)"


def test_what_a_checkpoint_holds(decoder, tmp_path, monkeypatch):
    place = interrupted(decoder, tmp_path, monkeypatch, config=RICH)
    sizes = json.loads((place / "checkpoint-12" / COMPLETE).read_text())
    assert {WEIGHTS, "negatives.npy", "optimizer.pt", "trainer_state.json"} <= sizes.keys()
    assert sorted(path.name for path in place.iterdir()) == ["checkpoint-12", "checkpoint-8"]
    assert all("lora_" in name for name in load_file(place / "checkpoint-12" / WEIGHTS))
