"""How the hybrid chooses its settings and its attention on validation interactions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from llm_tail.config import HybridConfig
from llm_tail.progress import Bar
from llm_tail.recommenders.collaborative import CollaborativeEmbeddings, GramFitter, fitter_for
from llm_tail.recommenders.fusion import Floats, Signals, speech, text_signal
from llm_tail.recommenders.learning import Neighborhood, PretendCold, attend, learn_attention
from llm_tail.recommenders.recency import weigh
from llm_tail.recommenders.tuning import ValidationTask, coordinate_search, is_better, most_people, objective

if TYPE_CHECKING:
    from llm_tail.recommenders.attention import NeighborAttention

# Settings that only weigh the signals are cheap to try, those that make them are not.
CHEAP: dict[str, Sequence[float]] = {
    "borrow": (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0),
    "thin_text_weight": (0.0, 0.1, 0.25, 0.5, 1.0),
    "text_weight": (0.0, 0.02, 0.05, 0.1, 0.2, 0.4),
    "gate": (0.1, 0.3, 1.0, 3.0),
}
PENALTIES = ((50.0, 100.0), (5.0, 100.0), (100.0, 100.0), (20.0, 50.0), (100.0, 300.0), (500.0, 200.0))  # (ridge, pull)
PENALTY_NAMES = ("ridge", "pull", "text_ridge")
TEXT_RIDGES = (0.1, 1.0, 10.0)
RECENCIES = (0.95, 0.9, 0.8, 0.7, 0.6, 1.0)
DAMPINGS = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4)
SAFETY = 1.005  # a lead of less is none
LIFTS = (1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 2.0, 2.5, 3.0)
MOST_LIFT = 100.0  # as the setting allows
FAST_ITEMS = 8000  # above this many warm items one solution takes a minute or more, so only one is made
ROUNDS = 2
LEARN_USERS = 4096  # people whom the attention learns from


class Chooser:
    """Tries settings and attention on a training and a validation matrix.

    Parameters
    ----------
    train, validation : csr_matrix, shape (n_users, n_items)
        Nothing is fitted on `validation`.
    vectors : array of float32, shape (n_items, dim)
        Centred unit text vectors.
    neighborhood : Neighborhood
        Of all items, among those that `train` names.
    attention : NeighborAttention
        Untrained.
    config : HybridConfig
        Where to begin.
    seed : int
        Seeds the draw of people and the training.
    aged : csr_matrix, shape (n_users, n_items), optional
        `recency.ages` of what `train` holds, where its order is known.

    Notes
    -----
    Memory: about six arrays of (people asked, n_items) float32, at most 4,000 people, beside the closed form and its
    solutions, n_warm^2 float32 for each of the ten or so penalties tried where there are at most 8,000 warm items.
    """

    def __init__(
        self,
        train: sp.csr_matrix,
        validation: sp.csr_matrix,
        vectors: Floats,
        neighborhood: Neighborhood,
        attention: NeighborAttention,
        config: HybridConfig,
        seed: int,
        aged: sp.csr_matrix | None = None,
    ) -> None:
        self.task = ValidationTask.build(train, validation, max_users=most_people(train.shape[1]), seed=seed)
        self.fitter = fitter_for(train, vectors, config, seed)
        self.config, self.attention, self.seed = config, attention, seed
        self._train, self._vectors, self._neighborhood = train, vectors, neighborhood
        self._counts = np.asarray(train.sum(axis=0)).ravel().astype(np.int64)
        self._aged = None if aged is None else aged[self.task.users]
        self._head = 0.0  # the warm ranking of ID embeddings alone
        self._alone: tuple[list[Any], dict[str, float]] = (
            [],
            {},
        )  # for which recency and penalties, and what they reach
        self._qualities: dict[HybridConfig, float] = {}  # of settings that were tried, with the attention as it is
        self._signals: tuple[Any, Signals] | None = None
        self._text: tuple[Any, Floats] | None = None
        self._kernel: dict[int, Floats] = {}

    def choose(self) -> dict[str, Any]:
        """Set `config` and `attention` to the best found; return what was measured and kept."""
        record: dict[str, Any] = {"n_people": len(self.task.users)}
        self._borrowing = self._attend(self.attention)
        record["given"] = self.measure(self.config)
        if self.config.tune:
            self._tune()
            record["alone"] = self._head
            record["tuned"] = self.measure(self.config)
        if self.config.learn and isinstance(self.fitter, GramFitter):
            record["attention"] = self._learn(self.fitter.fit(*_penalties(self.config)))
        if self.config.tune:
            self._lift_tail()
            record["lifted"] = self.measure(self.config)
        names = (*PENALTY_NAMES, "damping", "tail_lift", *CHEAP, *(() if self._aged is None else ("recency",)))
        record["settings"] = {name: getattr(self.config, name) for name in names}
        return record

    def measure(self, config: HybridConfig) -> dict[str, float]:
        """Return the mean NDCG@20 of the validation rankings with these settings."""
        return self.task.measure(self._signals_of(config).fuse(self._counts, config))

    def _quality(self, config: HybridConfig) -> float:
        """Return what is maximised; of all goals, what is lost in warm against ID embeddings alone counts more."""
        if config not in self._qualities:
            measured, goal = self.measure(config), self.config.goal
            lost = self._head - measured.get("warm", 0.0) if goal == "all" else 0.0
            self._qualities[config] = objective(measured, goal) - max(0.0, lost)
        return self._qualities[config]

    def _tune(self) -> None:
        slow = isinstance(self.fitter, GramFitter) and len(self.fitter.warm) > FAST_ITEMS
        penalties = [] if slow else PENALTIES
        costly = [{"ridge": ridge, "pull": pull} for ridge, pull in penalties] + [{"damping": d} for d in DAMPINGS]
        costly += [] if slow else [{"text_ridge": ridge} for ridge in TEXT_RIDGES]
        if self._aged is not None:
            costly = [{"recency": r} for r in RECENCIES] + costly
        if self.config.goal == "all" and isinstance(self.fitter, GramFitter):  # of low rank, only the last is kept
            for change in costly:
                self.fitter.fit(*_penalties(self.config.replace(**change)))
        self._head = self._measure_alone().get("warm", 0.0)
        with Bar("tuning on validation", total=1 + ROUNDS * (len(costly) + 1)) as bar:
            best, quality = coordinate_search(self.config, CHEAP, self._quality, passes=1)
            bar.advance(1)
            for _ in range(ROUNDS):
                before = best
                for change in costly:
                    candidate = best.replace(**change)
                    if candidate != best and is_better(found := self._quality(candidate), quality):
                        best, quality = candidate, found
                    bar.advance(1)
                best, quality = coordinate_search(best, CHEAP, self._quality, passes=1)
                bar.advance(1)
                if best == before:
                    break
        self.config = best

    def _lift_tail(self) -> None:
        """Lift tail items as far as it pays and the head can afford: only then are they shown at no one's expense.

        The head can afford what it has gained over ID embeddings alone, up to a share of what it has.
        """
        goal, price = self.config.goal, self.config.head_price
        best, before, alone = self.config, self.measure(self.config), self._measure_alone()
        quality = objective(before, goal)
        floors = {
            name: max((1.0 - price) * before[name], min(SAFETY * alone[name], before[name]))
            for name in ("warm", "overall")
            if name in before
        }
        for factor in LIFTS:
            if (lifted := self.config.tail_lift * factor) > MOST_LIFT:
                break
            candidate = self.config.replace(tail_lift=lifted)
            found = self.measure(candidate)
            affordable = all(found[name] >= floor for name, floor in floors.items())
            if affordable and is_better(objective(found, goal), quality):
                best, quality = candidate, objective(found, goal)
        self.config = best

    def _measure_alone(self) -> dict[str, float]:
        """Return what ID embeddings alone reach in each ranking, by the best of the penalties that were solved for."""
        plain = self.config.replace(
            gate=0.0, borrow=0.0, text_weight=0.0, thin_text_weight=0.0, damping=0.0, tail_lift=1.0
        )
        tried = list(self.fitter.solved) if isinstance(self.fitter, GramFitter) else [_penalties(plain)]
        key = [plain.recency, *tried]
        if key == self._alone[0]:
            return self._alone[1]
        found = [self.measure(plain.replace(**dict(zip(PENALTY_NAMES, one, strict=True)))) for one in tried]
        self._alone = key, {name: max(measured[name] for measured in found) for name in found[0]}
        return self._alone[1]

    def _learn(self, collaborative: CollaborativeEmbeddings) -> dict[str, Any]:
        """Train the attention; keep the best state on validation, which may be the untrained one."""
        measured = [self.measure(self.config)]
        best, kept = {name: tensor.clone() for name, tensor in self.attention.state_dict().items()}, 0

        def look(_: int) -> None:
            nonlocal best, kept
            self._look_through(self.attention)
            measured.append(self.measure(self.config))
            goal = self.config.goal
            if is_better(objective(measured[-1], goal), objective(measured[kept], goal)):
                best = {name: tensor.clone() for name, tensor in self.attention.state_dict().items()}
                kept = len(measured) - 1

        task = PretendCold(
            self._neighborhood,
            collaborative,
            self._damped(self._train, self.config),
            self._vectors,
            self._signals_of(self.config).mass,
            self.config,
            n_users=LEARN_USERS,
            rng=np.random.default_rng(self.seed),
        )
        losses = learn_attention(self.attention, task, look=look)
        self.attention.load_state_dict(best)
        self._look_through(self.attention)
        return {"kept": kept > 0, "look": kept, "measured": measured, "loss": losses}

    def _look_through(self, attention: NeighborAttention) -> None:
        self._borrowing, self._signals, self._qualities = self._attend(attention), None, {}

    def _attend(self, attention: NeighborAttention) -> sp.csr_matrix:
        return attend(attention, self._neighborhood, self._vectors, self._vectors[self.fitter.warm])

    def _damped(self, histories: sp.csr_matrix, config: HybridConfig) -> sp.csr_matrix:
        """Return histories in which an item speaks as loud as it does in a score."""
        return sp.csr_matrix(histories @ sp.diags(speech(self._counts, config)))

    def _signals_of(self, config: HybridConfig) -> Signals:
        """Return the signals of the people asked; the last ones made are kept."""
        key = (*_penalties(config), config.damping, config.recency)
        if self._signals is None or self._signals[0] != key:
            taken = self.task.histories if self._aged is None else weigh(self._aged, config.recency)
            histories = self._damped(taken, config)
            if self._text is None or self._text[0] != key[3:]:
                self._text = (key[3:], text_signal(histories, self._vectors, config.kernel_power, self._kernel))
            collaborative = self.fitter.trial(*_penalties(config))
            text, power = self._text[1], config.kernel_power
            self._signals = (key, Signals.of(histories, collaborative, self._borrowing, self._vectors, power, text))
        return self._signals[1]


def _penalties(config: HybridConfig) -> tuple[float, float, float]:
    return config.ridge, config.pull, config.text_ridge
