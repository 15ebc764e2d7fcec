"""Who takes part in the benchmark, and which settings of each are tuned.

A class may say itself what is to be tuned by a class method ``search_space()``, which wins over the table here. A space
is a mapping of a constructor's parameter to ``(low, high, "log" | "linear" | "int")`` or to a list of choices.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import llm_tail
from llm_tail.errors import ConfigError, closest
from llm_tail.workspace.tuner import Range, Space, is_range

if TYPE_CHECKING:
    from llm_tail.recommenders.base import Recommender
    from llm_tail.workspace.workspace import Workspace

Group = Literal["ours", "peer", "blend"]

POWERS = [1.0, 2.0, 3.0, 4.0, 6.0]


@dataclass(frozen=True)
class Contestant:
    """One model of the benchmark.

    Parameters
    ----------
    name : str
        Its name in the table and behind ``--models``.
    public : str
        The name of its class in `llm_tail`.
    group : {"ours", "peer", "blend"}
        Ours is held against the best peer of each column; blends of several models are shown beside them.
    space : mapping
        What is tuned where its class does not say so itself; empty for a model that tunes itself or has no settings.
    text : bool
        Whether it looks at item vectors though it could do without.
    graph : bool
        Whether it looks at the item graph.

    Examples
    --------
    >>> CONTESTANTS["ease"].defaults()
    {'ridge': 100.0}
    """

    name: str
    public: str
    group: Group = "peer"
    space: Space = field(default_factory=dict)
    text: bool = False
    graph: bool = False

    def load(self) -> Any:
        """Return its class.

        Raises
        ------
        ConfigError
            If this version of the package has none of that name.
        """
        try:
            return getattr(llm_tail, self.public)
        except AttributeError:
            raise ConfigError(f"{self.name} is not in this version of llm_tail: it has no {self.public}") from None

    def is_there(self) -> bool:
        """Say whether this version of the package has it."""
        return self.public in llm_tail.__all__

    def uses_text(self) -> bool:
        """Say whether it looks at item vectors."""
        return self.text or bool(self.load().needs_embeddings)

    def search_space(self) -> dict[str, Range]:
        """Return what is tuned; a range is widened, and a choice added, where a default lies outside."""
        model = self.load()
        given: Space = model.search_space() if hasattr(model, "search_space") else self.space
        defaults = self._parameters()
        return {name: _with(limits, defaults.get(name)) for name, limits in given.items()}

    def defaults(self) -> dict[str, Any]:
        """Return the default of each setting that is tuned."""
        parameters = self._parameters()
        return {name: parameters[name] for name in self.search_space()}

    def make(self, workspace: Workspace, settings: Mapping[str, Any]) -> Recommender:
        """Return the unfitted model with these settings and the seed of the run."""
        there = self._parameters()
        given: dict[str, Any] = {
            "seed": workspace.config.seed,
            "config": workspace.config.hybrid,
            "catalog": None if "catalog" not in there else workspace.catalog,
            "text": workspace.item_text,
        }
        return self.load()(**{name: value for name, value in given.items() if name in there}, **settings)  # type: ignore[no-any-return]

    def _parameters(self) -> dict[str, Any]:
        """Return what the constructor takes, and the defaults; where it passes the rest on, what that rest may be."""
        found: dict[str, Any] = {}
        for model in self.load().__mro__:
            if "__init__" not in vars(model):
                continue
            parameters = inspect.signature(model.__init__).parameters.values()
            named = {p.name: p.default for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
            found = named | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
        return {name: default for name, default in found.items() if name != "self"}


def _with(limits: Range, default: Any) -> Range:
    """Return a range or choices that hold the default."""
    if is_range(limits):
        low, high, scale = limits
        if scale == "log" and default <= 0:
            return limits  # no such range holds a 0; the search begins there all the same
        return (min(low, default), max(high, default), scale)
    choices = list(limits)
    return choices if default in choices else [default, *choices]


CONTESTANTS = {
    one.name: one
    for one in (
        Contestant("hybrid", "HybridRecommender", "ours", graph=True),
        Contestant("popularity", "Popularity"),
        Contestant("content", "ContentSimilarity", space={"power": POWERS}),
        Contestant("tfidf", "TfidfSimilarity", space={"power": POWERS}),
        Contestant("item-knn", "ItemKnn", space={"k": [20, 50, 100, 200, 500], "shrink": (0.1, 1000.0, "log")}),
        Contestant("user-knn", "UserKnn"),
        Contestant("ease", "Ease", space={"ridge": (1.0, 5000.0, "log")}),
        Contestant(
            "l3ae",
            "L3ae",
            space={"text_ridge": (0.1, 1000.0, "log"), "ridge": (0.1, 1000.0, "log"), "pull": (1.0, 5000.0, "log")},
        ),
        Contestant("gf-cf", "GfCf"),
        Contestant(
            "als",
            "ImplicitAls",
            space={"factors": [32, 64, 128, 256], "regularization": (1e-4, 10.0, "log"), "alpha": (1.0, 100.0, "log")},
        ),
        Contestant("bpr", "Bpr"),
        Contestant("softmax-factors", "SampledSoftmaxFactors"),
        Contestant("feature-factors", "FeatureFactors", text=True),
        Contestant("lightgcn", "LightGcn"),
        Contestant("alpharec", "AlphaRec"),
        Contestant("clcrec", "ClcRec"),
        Contestant("dropoutnet", "DropoutNet"),
        Contestant("sasrec", "SasRec"),
        Contestant("text-sasrec", "TextSasRec"),
        Contestant("mixer", "SparseDenseMixer", "blend"),
        Contestant("rank-fusion", "RankFusion", "blend"),
        Contestant("stacked", "Stacked", "blend"),
    )
}


def chosen(names: Sequence[str]) -> list[Contestant]:
    """Return the contestants of these names, once each and in their order; all of them where none is named.

    Raises
    ------
    ConfigError
        If there is no contestant of that name; the message names the closest.

    Examples
    --------
    >>> [one.name for one in chosen(["ease", "hybrid"])]
    ['ease', 'hybrid']
    """
    for name in names:
        if name not in CONTESTANTS:
            near = closest(name, CONTESTANTS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(CONTESTANTS)}"
            raise ConfigError(f"there is no model {name!r}; {hint}")
    return [CONTESTANTS[name] for name in dict.fromkeys(names or CONTESTANTS)]
