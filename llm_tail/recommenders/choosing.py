"""How the hybrid chooses its settings and its attention on validation interactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from llm_tail.config import HybridConfig
from llm_tail.progress import Bar
from llm_tail.recommenders.collaborative import CollaborativeEmbeddings, GramFitter, fitter_for
from llm_tail.recommenders.fusion import Floats, Signals, speech, spread, text_signal
from llm_tail.recommenders.learning import Neighborhood, PretendCold, attend, learn_attention
from llm_tail.recommenders.recency import weigh
from llm_tail.recommenders.tuning import ValidationTask, coordinate_search, is_better, lead, most_people, objective

if TYPE_CHECKING:
    from llm_tail.recommenders.attention import NeighborAttention

# Settings that only weigh the signals are cheap to try, those that make them are not.
CHEAP: dict[str, Sequence[float]] = {
    "borrow": (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0),
    "thin_text_weight": (0.0, 0.1, 0.25, 0.5, 1.0),
    "text_weight": (0.0, 0.02, 0.05, 0.1, 0.2, 0.4),
    "gate": (0.1, 0.3, 1.0, 3.0),
}
PENALTIES = ((500.0, 200.0), (2000.0, 400.0), (5.0, 100.0), (50.0, 100.0), (100.0, 100.0))  # (ridge, pull)
PENALTY_NAMES = ("ridge", "pull", "text_ridge")
TEXT_RIDGES = (1.0, 3.0, 10.0)
RECENCIES = (0.95, 0.9, 0.8, 0.7, 0.6, 1.0)
DAMPINGS = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4)
METRICS = (0.1, 0.25, 0.5, 0.0)
MOST_PAIRS = 2_000_000_000  # of an item and a neighbour; where there are more, neighbours are sought once
LIFTS = {"tail_lift": (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.25, 2.5)}
FARTHEST = 12.0  # a ridge is tried where it is at most so many times the best one so far
LEAST_KEPT = 0.9  # of the overall ranking, when what is behind is brought nearer
MOST_WORK = 4.5e12  # the sum of n_warm^3 over all solutions: a few minutes on two cores
PATIENCE = 2  # looks without a gain, after which the attention has learned enough
LEARN_USERS = 4096  # people whom the attention learns from


class Chooser:
    """Tries settings and attention on a training and a validation matrix.

    Parameters
    ----------
    train, validation : csr_matrix, shape (n_users, n_items)
        Nothing is fitted on `validation`.
    vectors : array of float32, shape (n_items, dim)
        Centred unit text vectors.
    near : callable
        The unit vectors by which neighbours are sought under a `neighbor_metric`, and the neighbourhood of all items
        among those that `train` names.
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
    solutions, n_warm^2 float32 for each of the penalties tried, as many as `MOST_WORK` allows (eight at 8,000 warm
    items, one past 13,000); the vectors and neighbours of all items for each of four metrics, where there are at most
    2 10^9 pairs; and the text kernel of all that these people took, where that is no more than 1 GB.
    """

    def __init__(
        self,
        train: sp.csr_matrix,
        validation: sp.csr_matrix,
        vectors: Floats,
        near: Callable[[float], tuple[Floats, Neighborhood]],
        attention: NeighborAttention,
        config: HybridConfig,
        seed: int,
        aged: sp.csr_matrix | None = None,
    ) -> None:
        self.task = ValidationTask.build(train, validation, max_users=most_people(train.shape[1]), seed=seed)
        self.fitter = fitter_for(train, vectors, config, seed)
        self.config, self.attention, self.seed = config, attention, seed
        self._train, self._vectors, self._find_near = train, vectors, near
        self._near: dict[float, tuple[Floats, Neighborhood]] = {}  # by the metric
        self._borrowings: dict[float, sp.csr_matrix] = {}  # likewise, by the attention as it is
        self._counts = np.asarray(train.sum(axis=0)).ravel().astype(np.int64)
        self._aged = None if aged is None else aged[self.task.users]
        self._head = 0.0  # the warm ranking of ID embeddings alone
        self._measured: dict[HybridConfig, dict[str, float]] = {}  # with the attention as it is
        self._alone: dict[Any, dict[str, float]] = {}  # what ID embeddings reach, by recency and penalties
        self._signals: tuple[Any, Signals] | None = None
        self._text: tuple[Any, Floats] | None = None
        self._kernel: dict[int, Floats] = {}

    def choose(self) -> dict[str, Any]:
        """Set `config` and `attention` to the best found; return what was measured and kept."""
        record: dict[str, Any] = {"n_people": len(self.task.users)}
        record["given"] = self.measure(self.config)
        if self.config.tune:
            self._tune()
            record["tuned"] = self.measure(self.config)
        if self.config.learn and isinstance(self.fitter, GramFitter):
            record["attention"] = self._learn(self.fitter.fit(*_penalties(self.config)))
        if self.config.tune:
            record["parts"] = self._balance()
            record["balanced"] = self.measure(self.config)
        names = (
            *PENALTY_NAMES,
            "damping",
            "neighbor_metric",
            *LIFTS,
            *CHEAP,
            *(() if self._aged is None else ("recency",)),
        )
        record["settings"] = {name: getattr(self.config, name) for name in names}
        return record

    def measure(self, config: HybridConfig) -> dict[str, float]:
        """Return the mean NDCG@20 of the validation rankings with these settings."""
        if config not in self._measured:
            self._measured[config] = self.task.measure(self._signals_of(config).fuse(self._counts, config))
        return self._measured[config]

    def _quality(self, config: HybridConfig) -> float:
        """Return what tuning maximises; of all goals, what is lost in warm against ID embeddings alone counts more."""
        measured, goal = self.measure(config), self.config.goal
        lost = self._head - measured.get("warm", 0.0) if goal == "all" else 0.0
        return objective(measured, goal) - max(0.0, lost)

    def _tune(self) -> None:
        """Find weights and penalties that rank well on the whole."""
        costly = self._costly()
        if self.config.goal == "all" and isinstance(self.fitter, GramFitter):  # of low rank, only the last is kept
            for candidate in (self.config.replace(**change) for change in costly):
                if self._is_worth(candidate, self.config):
                    self.fitter.fit(*_penalties(candidate))
        self._head = self._ids_alone().get("warm", 0.0)
        self._search("tuning on validation", CHEAP, costly, self._quality)

    def _balance(self) -> dict[str, dict[str, float]]:
        """Bring what is behind nearer to what ID embeddings or texts alone reach there, by a lift of tail items too.

        The mean of all rankings cannot: it hardly feels a tail of which next to nothing is found. Of what tuning has
        reached overall, where neither part has an order for warm and cold items together, little may be paid for it.
        Returns what the parts reach, texts with the recency that was found.
        """
        ids, text = self._ids_alone(), self.task.measure(self._text_of(self._taken(self.config)))
        parts, chance = {name: max(ids[name], text[name]) for name in ids}, self.task.chance()
        least = LEAST_KEPT * self.measure(self.config).get("overall", 0.0)
        goal, shortfall = self.config.goal, self.config.shortfall

        def ahead(config: HybridConfig) -> float:
            measured = self.measure(config)
            if goal != "all":
                return objective(measured, goal)
            return lead(measured, parts, shortfall, chance) if measured.get("overall", 0.0) >= least else 0.0

        self._search("balancing on validation", LIFTS | CHEAP, self._costly(), ahead)
        return {"ids": ids, "text": text}

    def _costly(self) -> list[dict[str, float]]:
        """Return changes of settings for which signals have to be made again."""
        costly = [] if self._aged is None else [{"recency": recency} for recency in RECENCIES]
        costly += [{"ridge": ridge, "pull": pull} for ridge, pull in PENALTIES]
        costly += [{"damping": damping} for damping in DAMPINGS]
        costly += [{"text_ridge": ridge} for ridge in TEXT_RIDGES]
        if isinstance(self.fitter, GramFitter) and len(self._counts) * len(self.fitter.warm) <= MOST_PAIRS:
            costly += [{"neighbor_metric": metric} for metric in METRICS]
        return costly

    def _is_worth(self, candidate: HybridConfig, best: HybridConfig) -> bool:
        """Return whether what it costs to try these penalties is in proportion."""
        if candidate.ridge > FARTHEST * best.ridge:
            return False
        if not isinstance(self.fitter, GramFitter) or _penalties(candidate) in self.fitter.solved:
            return True
        return (len(self.fitter.solved) + 1) * float(len(self.fitter.warm)) ** 3 <= MOST_WORK

    def _search(
        self,
        what: str,
        cheap: Mapping[str, Sequence[float]],
        costly: Sequence[Mapping[str, float]],
        quality: Callable[[HybridConfig], float],
    ) -> None:
        """Set `config` to the best that is found around it: what is cheap before and after what is costly."""
        with Bar(what, total=len(costly) + 2) as bar:
            best, reached = coordinate_search(self.config, cheap, quality, passes=1)
            bar.advance(1)
            for change in costly:
                candidate = best.replace(**change)
                tried = candidate != best and self._is_worth(candidate, best)
                if tried and is_better(found := quality(candidate), reached):
                    best, reached = candidate, found
                bar.advance(1)
            self.config, _ = coordinate_search(best, cheap, quality, passes=1)
            bar.advance(1)

    def _ids_alone(self) -> dict[str, float]:
        """Return what ID embeddings alone reach in each ranking, by the best of the penalties that were solved for."""
        config, found = self.config, []
        taken = self._taken(config)
        tried = list(self.fitter.solved) if isinstance(self.fitter, GramFitter) else [_penalties(config)]
        for one in tried:
            key = (config.recency, one)
            if key not in self._alone:
                said = self.fitter.trial(*one).signal(taken)
                self._alone[key] = self.task.measure(spread(said, self.fitter.warm, taken.shape[1]))
            found.append(self._alone[key])
        return {name: max(measured[name] for measured in found) for name in found[0]}

    def _learn(self, collaborative: CollaborativeEmbeddings) -> dict[str, Any]:
        """Train the attention; keep the best state on validation, which may be the untrained one."""
        measured = [self.measure(self.config)]
        best, kept = {name: tensor.clone() for name, tensor in self.attention.state_dict().items()}, 0

        def look(_: int) -> bool:
            nonlocal best, kept
            self._look_again()
            measured.append(self.measure(self.config))
            goal = self.config.goal
            if is_better(objective(measured[-1], goal), objective(measured[kept], goal)):
                best = {name: tensor.clone() for name, tensor in self.attention.state_dict().items()}
                kept = len(measured) - 1
            return len(measured) - 1 - kept < PATIENCE

        task = PretendCold(
            self.neighborhood,
            collaborative,
            self._damped(self._train, self.config),
            self._vectors,
            self._signals_of(self.config).mass,
            self.config,
            near_vectors=self._near[self.config.neighbor_metric][0],
            n_users=LEARN_USERS,
            rng=np.random.default_rng(self.seed),
        )
        losses = learn_attention(self.attention, task, look=look)
        self.attention.load_state_dict(best)
        self._look_again()
        return {"kept": kept > 0, "look": kept, "measured": measured, "loss": losses}

    def _look_again(self) -> None:
        """Forget what the attention said before it changed."""
        self._borrowings, self._signals, self._measured = {}, None, {}

    @property
    def neighborhood(self) -> Neighborhood:
        """The neighbours under the metric that is chosen."""
        return self._neighbors(self.config.neighbor_metric)[1]

    def _neighbors(self, metric: float) -> tuple[Floats, Neighborhood]:
        if metric not in self._near:
            self._near[metric] = self._find_near(metric)
        return self._near[metric]

    def _borrowing(self, config: HybridConfig) -> sp.csr_matrix:
        metric = config.neighbor_metric
        if metric not in self._borrowings:
            vectors, neighborhood = self._neighbors(metric)
            self._borrowings[metric] = attend(self.attention, neighborhood, vectors, vectors[self.fitter.warm])
        return self._borrowings[metric]

    def _damped(self, histories: sp.csr_matrix, config: HybridConfig) -> sp.csr_matrix:
        """Return histories in which an item speaks as loud as it does in a score."""
        return sp.csr_matrix(histories @ sp.diags(speech(self._counts, config)))

    def _signals_of(self, config: HybridConfig) -> Signals:
        """Return the signals of the people asked; the last ones made are kept."""
        key = (*_penalties(config), config.neighbor_metric, config.damping, config.recency)
        if self._signals is None or self._signals[0] != key:
            histories = self._damped(self._taken(config), config)
            if self._text is None or self._text[0] != key[4:]:
                self._text = (key[4:], self._text_of(histories))
            collaborative = self.fitter.trial(*_penalties(config))
            text, power = self._text[1], config.kernel_power
            self._signals = (
                key,
                Signals.of(histories, collaborative, self._borrowing(config), self._vectors, power, text),
            )
        return self._signals[1]

    def _taken(self, config: HybridConfig) -> sp.csr_matrix:
        """Return the histories of the people asked, what was taken long ago weighed by its age."""
        return self.task.histories if self._aged is None else weigh(self._aged, config.recency)

    def _text_of(self, histories: sp.csr_matrix) -> Floats:
        return text_signal(histories, self._vectors, self.config.kernel_power, self._kernel)


def _penalties(config: HybridConfig) -> tuple[float, float, float]:
    return config.ridge, config.pull, config.text_ridge
