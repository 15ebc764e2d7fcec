"""Tuner: which settings to try next, by those that have been tried; each trial is kept as soon as it is over.

::

    trials.json   {"tried": [{"params": {"ridge": 100.0}, "value": 0.1216, "seconds": 4.2, "error": ""}, ...],
                   "under_way": {"ridge": 31.6}}

Trial 0 is always the defaults, so that tuning can only help. Which settings come n-th hangs on the seed and the trials
before it alone: a search that was killed goes on as if nothing had happened, and a larger budget adds to a smaller one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_tail.artifacts import fingerprint, write_json
from llm_tail.errors import DataError, LlmTailError, MissingExtraError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Range = tuple[float, float, str] | Sequence[Any]
Space = Mapping[str, Range]

N_STARTUP = 6  # trials drawn at random before the others are learned from
DIGITS = 3  # of a number that is tried; more than that nobody could tell apart


@dataclass(frozen=True)
class Tried:
    """One set of settings and what came of it.

    Parameters
    ----------
    params : dict
        The settings.
    value : float or None
        How good they are, higher is better; None where they failed.
    seconds : float
        What it took.
    error : str
        Why they failed; empty where they did not.
    """

    params: dict[str, Any]
    value: float | None
    seconds: float = 0.0
    error: str = ""


class Tuner:
    """A search over the settings of one model.

    Parameters
    ----------
    path : Path
        The JSON file that keeps the trials; one that cannot be read counts as empty.
    space : mapping
        Setting to ``(low, high, "log" | "linear" | "int")`` or to a list of choices.
    defaults : mapping
        The settings of trial 0.
    seed : int
        Of the draws.

    Raises
    ------
    MissingExtraError
        If optuna is not installed.

    Notes
    -----
    Tree-structured Parzen estimator (J. Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011).
    """

    def __init__(self, path: Path, space: Space, defaults: Mapping[str, Any], seed: int) -> None:
        check_optuna()
        self.path, self.seed = path, seed
        self.space, self.defaults = dict(space), dict(defaults)
        self.tried, self._under_way = _read(path)

    def run(
        self,
        measure: Callable[[dict[str, Any]], float],
        n_trials: int,
        minutes: float = 0.0,
        on_trial: Callable[[], None] = lambda: None,
    ) -> None:
        """Try settings until there are `n_trials`, or the time that all of them took together is over.

        Parameters
        ----------
        measure : callable
            Says how good some settings are; higher is better. What it raises is kept as the trial's error.
        n_trials : int
            Those of former calls included.
        minutes : float
            The trial that is under way then is brought to its end; 0 is no limit.
        on_trial : callable
            Called after each trial.
        """
        while self._is_wanted(n_trials, minutes):
            params = self._ask() if self.tried else dict(self.defaults)
            self._write(under_way=params)
            known = next((one for one in self.tried if one.params == params), None)
            self.tried.append(_measured(measure, params) if known is None else replace(known, seconds=0.0))
            self._write()
            on_trial()

    def give_up(self, error: str) -> bool:
        """Count the trial under way as failed, since the process died of it; say whether there was one."""
        self.tried, self._under_way = _read(self.path)
        if self._under_way is None:
            return False
        self.tried.append(Tried(self._under_way, None, 0.0, error))
        self._write()
        return True

    def best(self, n_trials: int | None = None) -> Tried:
        """Return the best of the first `n_trials`; of equals the first.

        Raises
        ------
        DataError
            If all of them failed; with the words of the first.
        """
        tried = self.tried[:n_trials]
        good = [one for one in tried if one.value is not None]
        if not good:
            raise DataError(tried[0].error if tried else "no settings have been tried")
        return max(good, key=lambda one: one.value or 0.0)

    def _is_wanted(self, n_trials: int, minutes: float) -> bool:
        if len(self.tried) >= n_trials or len({fingerprint(one.params) for one in self.tried}) >= self._n_points():
            return False
        if len(self.tried) >= N_STARTUP and all(one.value is None for one in self.tried):
            return False  # nothing works, and each failure may take as long as a success
        return not self.tried or minutes <= 0 or sum(one.seconds for one in self.tried) < 60 * minutes

    def _n_points(self) -> float:
        """Return how many different settings there are; infinitely many where one is a number in a range."""
        n = 1.0
        for limits in self.space.values():
            n *= float("inf") if is_range(limits) else len(limits)
        return n

    def _ask(self) -> dict[str, Any]:
        """Return the settings to try next, by a study made of the trials there are, so that nothing else has a say."""
        import optuna

        draws = int(fingerprint("tuner-1", self.seed, len(self.tried)), 16) % 2**32
        with _quiet():
            sampler = optuna.samplers.TPESampler(n_startup_trials=N_STARTUP, seed=draws)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            distributions = {n: _distribution(limits, self.defaults[n]) for n, limits in self.space.items()}
            for one in self.tried:
                if one.value is not None:
                    params = {n: _within(one.params[n], limits) for n, limits in self.space.items()}
                    trial = optuna.trial.create_trial(params=params, distributions=distributions, value=one.value)
                    study.add_trial(trial)
            asked = study.ask(distributions).params
        return {n: _rounded(asked[n], limits, self.defaults[n]) for n, limits in self.space.items()}

    def _write(self, under_way: dict[str, Any] | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"tried": [asdict(one) for one in self.tried], "under_way": under_way})


def check_optuna() -> None:
    """Raise `MissingExtraError` where optuna is not installed."""
    if find_spec("optuna") is None:
        raise MissingExtraError("optuna", "search")


def is_range(limits: Range) -> bool:
    """Say whether a setting may be any number in a range; else it is one of several choices."""
    return isinstance(limits, tuple) and len(limits) == 3 and limits[2] in ("log", "linear", "int")


def _distribution(limits: Range, default: Any) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not is_range(limits):
        return CategoricalDistribution(list(limits))
    low, high, scale = limits
    if _is_whole(limits, default):
        return IntDistribution(int(low), int(high), log=scale == "log")
    return FloatDistribution(float(low), float(high), log=scale == "log")


def _rounded(value: Any, limits: Range, default: Any) -> Any:
    if not is_range(limits) or _is_whole(limits, default):
        return value
    return _within(float(f"{value:.{DIGITS}g}"), limits)


def _within(value: Any, limits: Range) -> Any:
    """Return a number of a range, or the end that is nearer: the defaults may lie outside."""
    return min(max(value, limits[0]), limits[1]) if is_range(limits) else value


def _is_whole(limits: Range, default: Any) -> bool:
    """Say whether only whole numbers of a range are tried: it says so, or the default and both ends are such."""
    return limits[2] == "int" or all(isinstance(x, int) for x in (default, *limits[:2]))


def _measured(measure: Callable[[dict[str, Any]], float], params: dict[str, Any]) -> Tried:
    started = time.perf_counter()
    try:
        value, error = float(measure(params)), ""
    except Exception as failed:  # whatever a model breaks on under these settings is no reason to lose the others
        value, error = None, in_words(failed)
    if value is not None and not math.isfinite(value):
        value, error = None, f"the quality is {value}"
    return Tried(params, value, time.perf_counter() - started, error)


def in_words(error: BaseException) -> str:
    """Return an error as one line."""
    said = " ".join(str(error).split())
    return said if isinstance(error, LlmTailError) else f"{type(error).__name__}: {said}".removesuffix(": ")


def _read(path: Path) -> tuple[list[Tried], dict[str, Any] | None]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [Tried(**one) for one in found["tried"]], found["under_way"]
    except (OSError, ValueError, KeyError, TypeError):
        return [], None


@contextmanager
def _quiet() -> Iterator[None]:
    """Let optuna say nothing, and as much as before afterwards."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
