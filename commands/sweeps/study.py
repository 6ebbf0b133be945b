"""A search space and its trials so far -> the next trial: Optuna's ask and tell, kept in a journal beside the page."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.sweeps.space import Parameter, Settings, Space

TELLING = (
    "name", "settings", "commit", "reference", "figures", "stage", "error",
    "ran", "seconds", "cpu_seconds", "node", "same_as",
)  # fmt: skip
"""What the journal keeps of a trial beside its objectives."""


@dataclass(frozen=True)
class Asked:
    """A trial that Optuna has asked for.

    Attributes:
        number: Its place in the study.
        settings: Its values of the parameters that are searched.
    """

    number: int
    settings: Settings


@dataclass(frozen=True)
class Told:
    """A trial as the journal has it.

    Attributes:
        number: Its place in the study.
        state: `running`, `complete`, `stopped` (after `train`) or `failed`.
        settings: Its values of the parameters that are searched.
        values: Of the objectives, in their order; empty unless it is complete.
        fit: Whether every file that must be fit to ship is.
        kept: What else is kept of it: see `TELLING`.
    """

    number: int
    state: str
    settings: Settings
    values: list[float]
    fit: bool
    kept: dict[str, Any]


class Study:
    """The study of one space at one revision; opening it again goes on with it.

    Args:
        space: What is searched.
        name: Of the study: it says the revision and the space.
        folder: Where the journal lies.
        limit: The number of trials, of all runs of the command.
    """

    def __init__(self, space: Space, name: str, folder: Path, limit: int | None) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._optuna = optuna
        self.space, self.name = space, name
        journal = str(folder / "journal.log")
        # A lock that a killed driver left behind is one that nobody holds: the driver's own lock came first.
        lock = Path(f"{journal}.lock")
        lock.unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(journal, lock_obj=JournalFileOpenLock(journal)))
        directions = ["maximize" if each.better == "higher" else "minimize" for each in space.objectives]
        self._study = optuna.create_study(
            storage=storage, study_name=name, directions=directions, load_if_exists=True, sampler=None
        )
        self._population = space.population or max(2, min(50, (limit or 50) // 4))
        if space.sampler == "grid" and not self._study.get_trials(deepcopy=False):
            for point in space.grid():
                self._study.enqueue_trial({key: encode(space.parameters[key], value) for key, value in point.items()})
        total = len(self._study.get_trials(deepcopy=False))
        self.limit = limit if space.sampler != "grid" else min(limit or total, total)

    def is_open(self) -> bool:
        """Whether there is anything left to run."""
        return bool(self.unfinished()) or self.limit is None or self.begun() < self.limit

    def unfinished(self) -> list[Asked]:
        """The trials that a driver which is gone had asked for."""
        running = self._optuna.trial.TrialState.RUNNING
        return [
            Asked(trial.number, self._settings_of(trial))
            for trial in self._study.get_trials(deepcopy=False, states=(running,))
        ]

    def begun(self) -> int:
        """How many trials have been asked for."""
        waiting = self._optuna.trial.TrialState.WAITING
        return sum(trial.state != waiting for trial in self._study.get_trials(deepcopy=False))

    def ask(self) -> Asked | None:
        """The next trial, or None if there are enough."""
        if self.limit is not None and self.begun() >= self.limit:
            return None
        self._study.sampler = make_sampler(self.space.sampler, f"{self.space.seed} {self.begun()}", self._population)
        trial = self._study.ask()
        settings = self.space.choose(lambda key, parameter: suggest(trial, key, parameter))
        self._keep(trial.number, settings=settings)
        return Asked(trial.number, settings)

    def complete(self, number: int, values: Sequence[float], unfit: int, **kept: Any) -> None:
        """Tell the figures of a trial, and how many of the files that must be fit to ship are not."""
        trial = self._keep(number, **kept)
        if self.space.fit:
            trial.set_constraint("fit", float(unfit))
        self._study.tell(number, list(values))

    def stop(self, number: int, **kept: Any) -> None:
        """Tell that a trial stopped after `train`."""
        self._keep(number, **kept)
        self._study.tell(number, state=self._optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, **kept: Any) -> None:
        """Tell that a trial failed; it is not tried again."""
        self._keep(number, **kept)
        self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)

    def trials(self) -> list[Told]:
        """Every trial that was begun."""
        states = {"RUNNING": "running", "COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}
        return [
            Told(
                trial.number,
                states[trial.state.name],
                self._settings_of(trial),
                list(trial.values) if trial.state.name == "COMPLETE" else [],
                all(value <= 0 for value in trial.constraints.values()),
                {key: trial.user_attrs[key] for key in TELLING if key in trial.user_attrs},
            )
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.name in states
        ]

    def best(self) -> list[int]:
        """The numbers of the trials that no other beats in every objective, of those that are fit to ship."""
        complete = [trial for trial in self.trials() if trial.state == "complete" and trial.fit]
        signs = [1 if each.better == "higher" else -1 for each in self.space.objectives]
        points = {trial.number: [s * v for s, v in zip(signs, trial.values, strict=True)] for trial in complete}
        front = [
            number for number, point in points.items() if not any(beats(other, point) for other in points.values())
        ]
        firsts = {tuple(points[number]): number for number in reversed(front)}  # of equal ones the first
        return sorted(firsts.values())

    def importance(self) -> list[dict[str, float]]:
        """For each objective, the share of its variance that each parameter explains; empty if that cannot be told."""
        shares = []
        for place in range(len(self.space.objectives)):
            try:
                found = self._optuna.importance.get_param_importances(
                    self._study,
                    target=lambda trial, place=place: trial.values[place],
                    evaluator=self._optuna.importance.FanovaImportanceEvaluator(seed=self.space.seed),
                )
            except (ValueError, RuntimeError):
                found = {}
            shares.append({key: float(value) for key, value in found.items()})
        return shares

    def _keep(self, number: int, **kept: Any) -> Any:
        """Write down what is known of a trial that is under way."""
        frozen = self._study.get_trials(deepcopy=False)[number]
        trial = self._optuna.trial.Trial(self._study, frozen._trial_id)
        for key, value in kept.items():
            if value is not None:
                trial.set_user_attr(key, value)
        return trial

    def _settings_of(self, trial: Any) -> Settings:
        if "settings" in trial.user_attrs:
            return dict(trial.user_attrs["settings"])
        # The driver was killed between asking and writing down.
        return {key: decode(self.space.parameters[key], value) for key, value in trial.params.items()}


def beats(other: Sequence[float], point: Sequence[float]) -> bool:
    """Whether a point is nowhere worse than another, and somewhere better."""
    return other != point and all(theirs >= ours for theirs, ours in zip(other, point, strict=True))


def make_sampler(name: str, seed: str, population: int) -> Any:
    """The sampler of one trial.

    Each trial has one of its own: what it draws depends on its seed and on the trials before it, and not on how often
    the command was ended and begun again.
    """
    from optuna import samplers

    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4])
    if name == "tpe":
        return samplers.TPESampler(seed=number, constant_liar=True)  # many at once are not to be alike
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=number, population_size=population)
    return samplers.RandomSampler(seed=number)


def suggest(trial: Any, key: str, parameter: Parameter) -> Any:
    """Let a trial of Optuna's choose a value."""
    if parameter.choices is not None:
        options: Iterable[str] = [encode(parameter, choice) for choice in parameter.choices]
        return decode(parameter, trial.suggest_categorical(key, options))
    low, high = parameter.bounds
    if parameter.ints:
        return trial.suggest_int(key, low, high, step=parameter.step or 1, log=parameter.log)
    return decode(parameter, trial.suggest_float(key, low, high, step=parameter.step, log=parameter.log))


def encode(parameter: Parameter, value: Any) -> Any:
    """A value as Optuna keeps it: a choice as JSON, since it takes neither lists nor 1 beside true."""
    return json.dumps(value) if parameter.choices is not None else value


def decode(parameter: Parameter, value: Any) -> Any:
    """The value that Optuna keeps; floats with as many digits as a person would write."""
    if parameter.choices is not None:
        return json.loads(value)
    return float(f"{value:.4g}") if parameter.floats else value
