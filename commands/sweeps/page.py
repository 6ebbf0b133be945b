"""A study -> one page without scripts: what is best, what mattered, how trials compare, what failed."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.sweeps.screen import shown
from commands.sweeps.space import Objective, Parameter, Space
from commands.sweeps.study import Told
from shared.kit.stage import write_bytes

import jinja2

TICKS = 5
MISSING = "—"


@dataclass(frozen=True)
class Axis:
    """A scale from values to 0 ... 1.

    Attributes:
        title: What it shows.
        low: The value at 0.
        high: The value at 1.
        log: Whether the scale is logarithmic.
        options: Of choices: all of them, evenly spaced; the last is at 1.
        down: Whether lower values are better.
    """

    title: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    options: tuple[str, ...] = ()
    down: bool = False

    def place(self, value: Any) -> float:
        """Where a value lies."""
        if self.options:
            return (self.options.index(json.dumps(value)) + 0.5) / len(self.options)
        low, high, number = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return float((number - low) / (high - low)) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Places and what stands there."""
        if self.options:
            return [(self.place(json.loads(option)), option.strip('"')) for option in self.options]
        shares = [number / (TICKS - 1) for number in range(TICKS)] if self.high > self.low else [0.5]
        if self.log:
            values = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            values = [self.low + share * (self.high - self.low) for share in shares]
        return [(self.place(value), f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}") for value in values]


def axis_of_parameter(key: str, parameter: Parameter) -> Axis:
    """The axis of what is searched."""
    if parameter.choices is not None:
        return Axis(key, options=tuple(json.dumps(choice) for choice in parameter.choices))
    low, high = parameter.bounds
    return Axis(key, low, high, parameter.log)


def axis_of_values(objective: Objective, values: Sequence[float], margin: float = 0.0) -> Axis:
    """The axis of what came out, with some room at its ends."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = margin * (high - low or abs(high) or 1.0)
    return Axis(objective.metric, low - room, high + room, down=objective.better == "lower")


@dataclass(frozen=True)
class Point:
    """A trial in a picture: where, what it is, and what a pointer on it is told."""

    x: float
    y: float
    best: bool
    fit: bool
    title: str


@dataclass(frozen=True)
class Scatter:
    """Two figures against each other; `steps` is the front's line."""

    x: Axis
    y: Axis
    points: list[Point]
    steps: list[tuple[float, float]]


def scatters(space: Space, complete: list[Told], best: set[int]) -> list[Scatter]:
    """The first objective against each other one; the only one against the order of the trials."""
    if not complete:
        return []
    first = space.objectives[0]
    y = axis_of_values(first, [trial.values[0] for trial in complete], 0.08)
    drawn = []
    places: list[int | None] = [*range(1, len(space.objectives))]
    for place in places or [None]:
        if place is None:
            x = Axis("trial", 0, max(trial.number for trial in complete) + 1)
        else:
            x = axis_of_values(space.objectives[place], [trial.values[place] for trial in complete], 0.08)
        points = []
        for trial in complete:
            across = trial.number + 1 if place is None else trial.values[place]
            title = f"{trial.kept.get('name')}: {describe(space, trial)}"
            points.append(Point(x.place(across), y.place(trial.values[0]), trial.number in best, trial.fit, title))
        drawn.append(Scatter(x, y, points, front_line(space, complete, place)))
        drawn[-1].steps[:] = [(x.place(across), y.place(value)) for across, value in drawn[-1].steps]
    return drawn


def front_line(space: Space, complete: list[Told], place: int | None) -> list[tuple[float, float]]:
    """The corners of the line that no trial which is fit to ship lies beyond; with one objective, the best so far."""
    sign = 1 if space.objectives[0].better == "higher" else -1
    order = 1 if place is None or space.objectives[place].better == "lower" else -1
    points = [
        (float(trial.number + 1) if place is None else trial.values[place], trial.values[0])
        for trial in complete
        if trial.fit
    ]
    corners: list[tuple[float, float]] = []
    for across, value in sorted(points, key=lambda point: (order * point[0], -sign * point[1])):
        if not corners or sign * value > sign * corners[-1][1]:
            if corners:
                corners.append((across, corners[-1][1]))
            corners.append((across, value))
    return corners


def describe(space: Space, trial: Told) -> str:
    """A trial in words: its figures and its parameters."""
    values = [f"{each.metric} {shown(value)}" for each, value in zip(space.objectives, trial.values, strict=False)]
    return ", ".join([*values, *(f"{key}={value}" for key, value in trial.settings.items())])


def parallel(space: Space, complete: list[Told], best: set[int]) -> dict[str, Any]:
    """Every complete trial as a line over all parameters and objectives; a parameter that it has not is left out."""
    axes = [axis_of_parameter(key, parameter) for key, parameter in space.parameters.items()]
    keys = list(space.parameters)
    axes += [
        axis_of_values(each, [trial.values[place] for trial in complete]) for place, each in enumerate(space.objectives)
    ]
    lines = []
    for trial in sorted(complete, key=lambda trial: trial.number in best):
        places = [
            (place, axis.place(trial.settings[key]))
            for place, (key, axis) in enumerate(zip(keys, axes, strict=False))
            if key in trial.settings
        ]
        places += [
            (len(keys) + place, axes[len(keys) + place].place(value)) for place, value in enumerate(trial.values)
        ]
        lines.append({"places": places, "best": trial.number in best, "title": describe(space, trial)})
    return {"axes": axes, "lines": lines}


def write_page(path: Path, study: Any, space: Space, *, title: str, revision: str) -> None:
    """Write the page of a study, whatever it holds so far."""
    trials: list[Told] = study.trials()
    complete = [trial for trial in trials if trial.state == "complete"]
    best = study.best()
    ran = Counter(stage for trial in trials for stage in trial.kept.get("ran") or [])
    importance = study.importance() if len(complete) > 1 else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown}
    page = environment.get_template("page.html.jinja").render(
        title=title,
        revision=revision,
        space=space,
        trials=trials,
        counts=Counter(trial.state for trial in trials),
        winners=[trial for trial in complete if trial.number in best],
        best=set(best),
        scatters=scatters(space, complete, set(best)),
        importance=[
            (objective.metric, sorted(shares.items(), key=lambda item: -item[1]))
            for objective, shares in zip(space.objectives, importance, strict=False)
            if shares
        ],
        parallel=parallel(space, complete, set(best)),
        failures=[trial for trial in trials if trial.state == "failed"],
        ran=ran.most_common(),
        missing=MISSING,
    )
    write_bytes(path, page.encode())
