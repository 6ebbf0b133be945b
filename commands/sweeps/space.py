"""A search space in YAML -> validated, against the `Params` of the stages that will read the values."""

import ast
import importlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from commands.sweeps.pipeline import Pipeline
from shared.kit.params import StageParams, closest, explain, read_sections
from shared.kit.stage import StageError, one_line

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

Settings = dict[str, Any]
"""Key of params.yaml, such as `train.learning_rate`, to its value."""

GRID_LIMIT = 10_000  # points that are checked before anything runs


class Parameter(StageParams):
    """The values of one key.

    Attributes:
        choices: Any values.
        ints: The smallest and the largest int.
        floats: The smallest and the largest float.
        step: The distance of the values from each other; a grid needs it.
        log: Whether the values are as dense between 1 and 10 as between 10 and 100.
        when: Other keys and the values of theirs with which this one is searched; otherwise it keeps its own value.
    """

    choices: list[Any] | None = Field(default=None, min_length=1)
    ints: tuple[int, int] | None = None
    floats: tuple[float, float] | None = None
    step: int | float | None = Field(default=None, gt=0)
    log: bool = False
    when: dict[str, list[Any]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _pairs(cls, content: Any) -> Any:
        """YAML has lists only, and writes a float as an int where it can."""
        if isinstance(content, dict):
            content = dict(content)
            for name, kind in (("ints", int), ("floats", float)):
                bounds = content.get(name)
                if isinstance(bounds, list) and all(type(bound) in (int, kind) for bound in bounds):
                    content[name] = tuple(map(kind, bounds))
            if "when" in content and isinstance(content["when"], dict):
                content["when"] = {
                    key: values if isinstance(values, list) else [values] for key, values in content["when"].items()
                }
        return content

    @model_validator(mode="after")
    def _one_kind(self) -> "Parameter":
        kinds = [kind for kind in (self.choices, self.ints, self.floats) if kind is not None]
        if len(kinds) != 1:
            raise ValueError("should have one of choices, ints, floats")
        if self.choices is not None:
            if self.step or self.log:
                raise ValueError("choices have neither step nor log")
            if len({json.dumps(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("a choice is listed twice")
            return self
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"{low} to {high}: the first should be less than the second")
        if self.log and (self.step or low <= 0):
            raise ValueError("log should go with numbers above 0 and without step")
        return self

    @property
    def bounds(self) -> tuple[int, int] | tuple[float, float]:
        """The smallest and the largest number."""
        bounds = self.ints or self.floats
        assert bounds is not None
        return bounds

    def extremes(self) -> list[Any]:
        """The values that must be valid for all to be."""
        return list(self.choices or self.bounds)

    def values(self) -> list[Any] | None:
        """Every value, if they can be counted."""
        if self.choices is not None:
            return self.choices
        if self.step is None:
            return None
        low, high = self.bounds
        count = int((high - low) / self.step + 1e-9) + 1
        return [low + number * self.step for number in range(count)]


class Objective(StageParams):
    """A figure that the sweep is about: `evaluate.onnx.int8.accuracy` stands in metrics/evaluate.json."""

    metric: str = Field(pattern=r"^\w+(\.[\w@-]+)+$")
    better: Literal["higher", "lower"]


class EarlyStop(StageParams):
    """When a trial stops after `train`: its net cannot win.

    Attributes:
        metric: A figure of metrics/train.json, or of the last line of metrics/loss.csv.
        better: Which way.
        target: The worst value that goes on.
        within: How much worse than the best trial so far goes on, in the metric's own unit.
    """

    metric: str = Field(pattern=r"^(train|loss)\.\w+$")
    better: Literal["higher", "lower"]
    target: float | None = None
    within: float | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _floats(cls, content: Any) -> Any:
        if isinstance(content, dict):
            numbers = {name: float(value) for name, value in content.items() if type(value) is int}
            return content | numbers
        return content

    @model_validator(mode="after")
    def _one_limit(self) -> "EarlyStop":
        if self.target is None and self.within is None:
            raise ValueError("should have target, or within, or both")
        return self

    def condition(self, seen: list[float]) -> str | None:
        """What a trial must hold to go on, in the words of `trial.py`, after these figures of others."""
        higher = self.better == "higher"
        limits = [] if self.target is None else [self.target]
        if self.within is not None and seen:
            limits.append(max(seen) - self.within if higher else min(seen) + self.within)
        if not limits:
            return None
        return f"{self.metric}{'>=' if higher else '<='}{max(limits) if higher else min(limits)!r}"


class Prune(StageParams):
    """When a trial stops while it trains: its best validation loss is above the median of the others' at that epoch.

    Attributes:
        trials: How many must be complete before.
        epochs: How many a training has in any case.
    """

    trials: int = Field(default=5, gt=0)
    epochs: int = Field(default=0, ge=0)


class Space(StageParams):
    """A search space.

    Attributes:
        sampler: How the next trial is found. `grid` and `random` learn nothing; `tpe` and `nsga2` do.
        trials: How many there are at most, of all runs of the command; null is all of a grid.
        seed: Of the sampler.
        population: Of `nsga2`: how many trials a generation has.
        parameters: What is searched.
        fixed: What has another value than in params.yaml, in every trial.
        remove: Keys of params.yaml that no trial has.
        objectives: What is to be as good as possible. With two or more there is no winner, but a front.
        fit: The files that must be fit to ship, such as `onnx.int8`; a trial that breaks this cannot win.
        early_stop: When a trial stops after `train`.
        prune: When a trial stops while it trains.
        stages: What runs, with all that it needs; null is what writes the figures of the objectives.
    """

    sampler: Literal["grid", "random", "tpe", "nsga2"]
    trials: int | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    population: int | None = Field(default=None, gt=1)
    parameters: dict[str, Parameter] = Field(min_length=1)
    fixed: dict[str, Any] = Field(default_factory=dict)
    remove: list[str] = Field(default_factory=list)
    objectives: list[Objective] = Field(min_length=1)
    fit: list[str] = Field(default_factory=list)
    early_stop: EarlyStop | None = None
    prune: Prune | None = None
    stages: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _trials(self) -> "Space":
        if self.trials is None and self.sampler != "grid":
            raise ValueError(f"trials is missing: sampler {self.sampler} has no end of its own")
        if self.population is not None and self.sampler != "nsga2":
            raise ValueError(f"population belongs to sampler nsga2, not to {self.sampler}")
        return self

    def metrics(self) -> list[str]:
        """Every figure that is read from a trial."""
        stop = [self.early_stop.metric] if self.early_stop else []
        return [objective.metric for objective in self.objectives] + [f"verify.{file}" for file in self.fit] + stop

    def choose(self, pick: Callable[[str, Parameter], Any]) -> Settings:
        """Go through the parameters in their order; `pick` says the value of each one that is searched there."""
        settings: Settings = {}
        for key, parameter in self.parameters.items():
            if all(self._allows(settings, other, values) for other, values in parameter.when.items()):
                settings[key] = pick(key, parameter)
        return settings

    def _allows(self, settings: Settings, key: str, values: list[Any]) -> bool:
        """Whether a key has one of the values, as far as it is searched."""
        return key in settings and settings[key] in values

    def grid(self) -> Iterator[Settings]:
        """Every point of the grid, conditions kept, each one once."""
        keys = list(self.parameters)
        seen = set()
        for values in itertools.product(*(parameter.values() or [] for parameter in self.parameters.values())):
            point = dict(zip(keys, values, strict=True))
            settings = self.choose(lambda key, _, point=point: point[key])  # type: ignore[misc]
            if (text := json.dumps(settings)) not in seen:
                seen.add(text)
                yield settings


def read_space(path: Path, pipeline: Pipeline) -> Space:
    """Read and validate a search space: every value that a trial may get is one that its stage takes.

    Raises:
        StageError: Something in it is wrong: one line that names the key, what was found and what is allowed.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"{path}: no such file") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: not valid YAML: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise StageError(f"{path}: expected keys and values; found {content!r}")
    try:
        space = Space.model_validate(content)
    except ValidationError as error:
        raise StageError(f"{path}: {'; '.join(map(in_words, error.errors()))}") from None
    try:
        check(space, pipeline)
    except StageError as error:
        raise StageError(f"{path}: {error}") from None
    return space


def in_words(detail: Any) -> str:
    """One of pydantic's findings about a space: key, what was found, what is allowed."""
    models: dict[str, type[StageParams]] = {"parameters": Parameter, "objectives": Objective}
    first, *rest = detail["loc"] or [""]
    if first in models and len(rest) > 1:
        return explain(f"{first}.{rest[0]}", detail | {"loc": rest[1:]}, models[first])
    return explain("", detail, Space).removeprefix(".").replace("key .", "key ").removeprefix(" = ")


def check(space: Space, pipeline: Pipeline) -> None:
    """Hold a space to the project.

    Raises:
        StageError: A key, a value, a stage or a figure is not the project's.
    """
    for metric in [*space.metrics(), *(["loss.validation_loss"] if space.prune else [])]:
        pipeline.writer_of(metric)
    for stage in space.stages or []:
        names = sorted(set(pipeline.keys) | {name.partition("@")[0] for name in pipeline.keys})
        if stage not in names:
            raise StageError(f"stages: no stage {stage!r}{closest(stage, names)}; there are {', '.join(names)}")
    if both := set(space.parameters) & set(space.fixed):
        raise StageError(f"{min(both)} is both searched and fixed")
    order = list(space.parameters)
    for key, parameter in space.parameters.items():
        for other in parameter.when:
            if other not in order[: order.index(key)]:
                raise StageError(f"parameters.{key}.when: {other} is not searched before it{closest(other, order)}")
        if space.sampler == "grid" and parameter.values() is None:
            raise StageError(f"parameters.{key}: a grid needs choices or a step")
    check_values(space)


def check_values(space: Space) -> None:
    """Validate the sections of params.yaml with every value that the space may put into them.

    Raises:
        StageError: A stage would refuse a value, or its key.
    """
    base = changed(read_sections(), {})
    models = Models()
    for key in space.remove:
        remove(base, key)
    for key, value in space.fixed.items():
        put(base, key, value)
    for section in {key.partition(".")[0] for key in [*space.fixed, *space.remove]}:
        models.check(section, base)
    for key, parameter in space.parameters.items():
        for value in parameter.extremes():
            models.check(key.partition(".")[0], changed(base, reaching(space, key) | {key: value}))
    if space.sampler == "grid":
        for settings in itertools.islice(space.grid(), GRID_LIMIT):
            for section in {key.partition(".")[0] for key in settings}:
                models.check(section, changed(base, settings))


def reaching(space: Space, key: str) -> Settings:
    """The settings under which a parameter is searched: the first values of what it depends on."""
    settings: Settings = {}
    for other, values in space.parameters[key].when.items():
        settings |= reaching(space, other) | {other: values[0]}
    return settings


def changed(sections: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Sections of params.yaml with other values."""
    result: dict[str, Any] = json.loads(json.dumps(sections, default=str))
    for key, value in settings.items():
        put(result, key, value)
    return result


def put(sections: dict[str, Any], key: str, value: Any) -> None:
    """Set a value.

    Raises:
        StageError: The key is not one of params.yaml.
    """
    inner, name = inside(sections, key)
    if name not in inner:
        raise StageError(f"unknown key {key}{closest(name, inner)}; allowed: {', '.join(map(str, inner))}")
    inner[name] = value


def remove(sections: dict[str, Any], key: str) -> None:
    """Take a key out.

    Raises:
        StageError: It is not there.
    """
    inner, name = inside(sections, key)
    if name not in inner:
        raise StageError(f"remove: there is no {key}{closest(name, inner)}; there are {', '.join(map(str, inner))}")
    del inner[name]


def inside(sections: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """What a key lies in, and its last part."""
    *parts, name = key.split(".")
    inner: Any = sections
    for depth, part in enumerate(parts):
        if not isinstance(inner, dict) or part not in inner:
            known = list(inner) if isinstance(inner, dict) else []
            where = ".".join(parts[: depth + 1])
            raise StageError(
                f"unknown key {key}: params.yaml has no {where}{closest(part, known)}; there are {', '.join(known)}"
            )
        inner = inner[part]
    if not isinstance(inner, dict) or not parts:
        raise StageError(f"unknown key {key}: expected section.key, as in train.learning_rate")
    return inner, name


class Models:
    """Section of params.yaml to the models of the stages that read it, which are imported when they are asked for."""

    def __init__(self) -> None:
        self._readers: dict[str, list[tuple[str, str]]] = {}
        for script in sorted(Path("stages").glob("*.py")):
            for section, model in sections_read_by(script):
                self._readers.setdefault(section, []).append((script.stem, model))

    def check(self, section: str, sections: Mapping[str, Any]) -> None:
        """Validate a section.

        Raises:
            StageError: A stage would refuse it.
        """
        if section not in self._readers:
            raise StageError(f"no stage reads section {section!r}{closest(section, self._readers)}")
        for script, name in self._readers[section]:
            model: type[StageParams] = getattr(importlib.import_module(script), name)
            try:
                model.model_validate(sections[section])
            except ValidationError as error:
                raise StageError("; ".join(explain(section, detail, model) for detail in error.errors())) from None


def sections_read_by(script: Path) -> Iterator[tuple[str, str]]:
    """The sections that a script reads by `read_params("section", Model)`, and the name of the model of each."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read_params":
            section, model = node.args
            if isinstance(section, ast.Constant) and isinstance(model, ast.Name):
                yield str(section.value), model.id
