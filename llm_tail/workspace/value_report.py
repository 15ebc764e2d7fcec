"""What a comparison of ways to embed a catalogue has found: to read, to keep, to choose by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli_w

from llm_tail.config import ValueConfig
from llm_tail.errors import CorruptArtifactError
from llm_tail.evaluation.pareto import Advice, Budget, Choice, advise, front
from llm_tail.evaluation.report import short
from llm_tail.workspace.measuring import Machine, Measured


@dataclass(frozen=True)
class ValueReport:
    """Every choice with its costs and its quality, and what they were measured on.

    Parameters
    ----------
    choices : tuple of Choice
        By runtime, width and number format.
    measured : dict
        Runtime to `Measured`.
    missing : dict
        Runtime to why it could not run here.
    machine : Machine
        What the figures were measured on.
    settings : ValueConfig
        Prices and sizes.
    n_items : int
        Items that were encoded and ranked.
    n_users : dict
        Column (warm, tail, cold, overall) to how many people were judged; empty where nobody could be.
    notes : tuple of str
        What else has to be known.
    """

    choices: tuple[Choice, ...]
    measured: dict[str, Measured]
    missing: dict[str, str]
    machine: Machine
    settings: ValueConfig
    n_items: int
    n_users: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def segments(self) -> tuple[str, ...]:
        """The columns: those of warm, tail, cold and overall that somebody could be judged on."""
        return tuple(self.n_users)

    @property
    def front(self) -> list[Choice]:
        """The choices that no other one dominates."""
        return front(self.choices)

    def advise(self, budget: Budget | None = None) -> Advice:
        """Say which choice to take; see `llm_tail.evaluation.pareto.advise`."""
        return advise(self.choices, budget, self.settings.keep_share)

    def lines_for(self, choice: Choice) -> str:
        """Return the lines of a config file that make one of the choices the run's own."""
        runtime, _, precision = choice.runtime.partition("-")
        encoder: dict[str, Any] = {"runtime": runtime}
        if precision:
            encoder["precision"] = precision
        if choice.dim < self.measured[choice.runtime].dim:
            encoder["dim"] = choice.dim
        return tomli_w.dumps({"encoder": encoder, "embedding": {"storage": choice.storage}})

    def told(self, advice: Advice, budget: Budget | None = None) -> str:
        """Return a piece of advice as a sentence."""
        limits = self._limits(budget or Budget())
        if advice.choice is not None:
            share = f"keeps {advice.choice.share or 0:.1%} of the best quality"
            best = "" if advice.best in (None, advice.choice) else f" ({advice.best.label if advice.best else ''})"
            if limits:
                return f"within {limits}, take {advice.choice.label}: it {share}{best} for {self._costs(advice.choice)}"
            least = f"the cheapest that keeps {self.settings.keep_share:.0%}"
            return f"take {advice.choice.label}: it {share}{best}, {least}, for {self._costs(advice.choice)}"
        if advice.nearest is not None:
            over = ", ".join(
                f"{self._amount(name, getattr(advice.nearest, name))} are {ratio:.3g} times what may be spent"
                for name, ratio in (advice.excess or {}).items()
            )
            return f"nothing keeps within {limits}; the nearest is {advice.nearest.label}: its {over}"
        return "nothing is recommended: nobody could be judged, and what is cheap is not known to be good"

    def _limits(self, budget: Budget) -> str:
        words = [self._amount(name, limit) for name, limit in budget.limits.items()]
        return " and ".join(words) + " for a million items" if words else ""

    def _costs(self, choice: Choice) -> str:
        money, seconds, mb = (self._amount(name, getattr(choice, name)) for name in ("money", "seconds", "mb"))
        return f"{money}, {seconds} and {mb} for a million items"

    def _amount(self, name: str, number: float) -> str:
        if name == "money":
            return f"{number:.3g} {self.settings.currency}"
        return duration(number) if name == "seconds" else f"{number:,.0f} MB"

    def to_markdown(self) -> str:
        """Return one table of all choices, what could not run, and the machine."""
        names = ["runtime", "width", "format", "texts/s", "peak MB", "MB / 10^6", "s / 10^6"]
        names += [f"{self.settings.currency} / 10^6", *self.segments, "kept", "front"]
        lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
        on_front = {choice.label for choice in self.front}
        for one in self.choices:
            cells = [one.runtime, f"{one.dim}", one.storage, f"{one.texts_per_s:,.0f}", f"{one.peak_mb:,.0f}"]
            cells += [f"{one.mb:,.0f}", f"{one.seconds:,.0f}", f"{one.money:.3g}"]
            cells += [short(one.ndcg[segment]) for segment in self.segments]
            cells += ["" if one.share is None else f"{one.share:.1%}", "yes" if one.label in on_front else ""]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"- {line}" for line in self.remarks()), "", self.told(self.advise()), ""]
        return "\n".join(lines)

    def remarks(self) -> list[str]:
        """Return what has to be known beside the table: the machine, the sample, the prices, what is missing."""
        people = ", ".join(f"{n:,} {segment}" for segment, n in self.n_users.items())
        prices = f"{self.settings.core_hour:g} {self.settings.currency} a core-hour"
        if any(one.device != "cpu" for one in self.measured.values()):
            prices += f", {self.settings.gpu_hour:g} {self.settings.currency} a GPU-hour"
        sample = f"measured on {self.n_items:,} items" + (f", judged on people: {people}" if people else "")
        made = [f"{name} {duration(one.make_seconds)}" for name, one in self.measured.items() if one.make_seconds]
        once = [f"made once, which no figure holds: {', '.join(made)}"] if made else []
        held = [f"{name} {one.gpu_mb:,.0f} MB" for name, one in self.measured.items() if one.gpu_mb]
        once += [f"peak on the GPU: {', '.join(held)}"] if held else []
        missing = [f"{runtime} cannot run here: {reason}" for runtime, reason in self.missing.items()]
        return [str(self.machine), f"{sample}; {prices}", *once, *missing, *self.notes]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        on_front = {choice.label for choice in self.front}
        return {
            "choices": [{**choice.to_dict(), "front": choice.label in on_front} for choice in self.choices],
            "runtimes": {name: asdict(one) for name, one in self.measured.items()},
            "missing": self.missing,
            "machine": asdict(self.machine),
            "settings": self.settings.model_dump(),
            "n_items": self.n_items,
            "n_users": self.n_users,
            "notes": list(self.notes),
        }

    @classmethod
    def load(cls, path: str | Path) -> ValueReport:
        """Read what `to_dict` gave from a JSON file; `CorruptArtifactError` where that is something else."""
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(
                choices=tuple(Choice.from_dict(one) for one in raw["choices"]),
                measured={name: Measured(**one) for name, one in raw["runtimes"].items()},
                missing=raw["missing"],
                machine=Machine(**{**raw["machine"], "gpus": tuple(raw["machine"]["gpus"])}),
                settings=ValueConfig(**raw["settings"]),
                n_items=raw["n_items"],
                n_users=raw["n_users"],
                notes=tuple(raw["notes"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{path} is no readable comparison ({type(error).__name__}: {error})"
            raise CorruptArtifactError(what, "run: llm-tail value") from error


def duration(seconds: float) -> str:
    """Return a time in the two largest units that it fills.

    Examples
    --------
    >>> duration(9_800), duration(75), duration(4.24), duration(0.05)
    ('2 h 43 min', '1 min 15 s', '4.2 s', '0.05 s')
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    unit, names = (60, ("h", "min")) if round(seconds) >= 3600 else (1, ("min", "s"))
    whole, left = divmod(round(seconds / unit), 60)
    return f"{whole:,} {names[0]}" + (f" {left} {names[1]}" if left else "")
