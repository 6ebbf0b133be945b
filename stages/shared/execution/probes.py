"""Sequences that the test split does not hold: every file is asked what it makes of them, and `verify` compares.

A probe follows from the prepared data alone, so that every file of every format is asked the same. Of what is in them:

    rows              real rows; those that follow change nothing but what comes after their ends
    padding_values    ... other values there              padding_nan   ... NaN there
    padding_longer    ... more steps there                unpadded      ... nothing there: each row at its own length
    far               values outside the data's range, in combinations that the data do not hold
    zeros, constant   nothing but zeros; nothing but one value
    quiet             a thousandth of the data's scale, around zero and around the mean
    gap               real rows, but one step of each is zero, or at the mean
    edge              the largest values that float16 can hold

`far` is asked at other numbers of time steps too (`far@20`). The first five are there only where sequences differ in
length. A feature that holds codes, the input of an embedding, keeps to its own: any other value is none of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shared.data.sequences import Prepared, SplitArrays
from shared.execution.interface import Interface
from shared.execution.runtimes import Floats, Lengths
from shared.kit.stage import rounded

import numpy as np
from numpy.typing import NDArray

Rows = tuple[Floats, Lengths | None]
"""Sequences (rows, time, features), and of ragged data their lengths (rows,)."""

FAR_ROWS = 64
FAR_SPREAD = 3
OTHER_ROWS = 16
"""Of every other probe: each asks one question, which a few rows answer."""
QUIET_SHARE = 1e-3
LARGEST_HALF = 65504.0
LONGER_SHARE = 0.5
"""How many steps of padding are added, of those that the sequences have."""
INSPECTED_VALUES = 2**21
"""Of all features together, to tell codes from numbers."""
MOST_CODES = 1000
"""Different values of a feature of codes that may be negative; numbers for embeddings are not, and may be more."""
LISTED_CODES = 20
EXAMPLE_STEPS = 100
EXAMPLE_FEATURES = 3


@dataclass(frozen=True)
class Probe:
    """One question to a file.

    Attributes:
        name: Unique, and the key of the answer in the record.
        parts: Rows that are run one part after the other; the parts may differ in their number of time steps.
        same_as: The probe whose logits these rows must have, row for row; None where PyTorch's are the only measure.
    """

    name: str
    parts: tuple[Rows, ...]
    same_as: str | None = None

    @property
    def times(self) -> set[int]:
        """The numbers of time steps that it needs."""
        return {sequences.shape[1] for sequences, _ in self.parts}


@dataclass(frozen=True)
class Feature:
    """What a feature's values are.

    Attributes:
        name: As in the schema.
        codes: A share of its values, sorted, if they are codes; None if they are numbers.
        mean: Over the training split, as the schema has it.
    """

    name: str
    codes: NDArray[np.float32] | None
    mean: float

    def to_json(self) -> dict[str, Any]:
        """As plain data for the record: some of the codes, and how many were seen."""
        if self.codes is None:
            return {"kind": "numbers", "mean": self.mean}
        return {
            "kind": "codes",
            "seen": len(self.codes),
            "codes": [int(code) for code in self.codes[:LISTED_CODES]],
        }


def features_of(data: Prepared) -> list[Feature]:
    """Which features hold codes: nothing but integers, which are either no negative ones or few different ones."""
    test, schema = data.split("test"), data.schema
    rows = max(1, min(len(test.sequences), INSPECTED_VALUES // (schema.time_steps * len(schema.features))))
    chosen = np.linspace(0, len(test.sequences) - 1, rows).astype(int)
    sequences = np.array(test.sequences[chosen])
    counts = _counts(test, chosen, schema.time_steps)
    features = []
    for index, (name, mean) in enumerate(zip(schema.features, schema.mean, strict=True)):
        values = sequences[..., index][counts]
        codes = None
        if (values == np.round(values)).all():
            different = np.unique(values)
            codes = different if different[0] >= 0 or len(different) <= MOST_CODES else None
        features.append(Feature(name, codes, mean))
    return features


def _counts(test: SplitArrays, rows: NDArray[np.int_], time: int) -> NDArray[np.bool_]:
    """Which steps of some rows are no padding: (rows, time)."""
    if test.lengths is None:
        return np.ones((len(rows), time), bool)
    return np.asarray(np.arange(time) < np.array(test.lengths[rows])[:, None])


def probes_of(data: Prepared, times: list[int]) -> list[Probe]:
    """Every probe of the prepared data.

    Args:
        data: The prepared data; rows are taken from the test split.
        times: Other numbers of time steps than the data's, at which files that read any number are asked as well.
    """
    features, time = features_of(data), data.schema.time_steps
    made = _Making(data, features)
    probes = list(_padding(made)) if data.schema.ragged else []
    for steps in sorted({time, *times}):
        probes.append(Probe("far" if steps == time else f"far@{steps}", (made.far(steps),)))
    probes += [Probe(name, (rows,)) for name, rows in made.others().items()]
    return probes


def accepts(interface: Interface, probe: Probe, time_steps: int) -> bool:
    """Whether a file reads the probe's numbers of time steps; all read the data's own."""
    return all(reads(interface, time) for time in probe.times - {time_steps})


def reads(interface: Interface, time: int) -> bool:
    """Whether a file reads another number of time steps than the data's own."""
    return interface.dynamic_time and (interface.largest_time is None or time <= interface.largest_time)


def describe(probe: Probe) -> dict[str, Any]:
    """What was asked, for the record: how many sequences of how many steps, each feature's range, and an example."""
    steps = np.concatenate([sequences.reshape(-1, sequences.shape[2]) for sequences, _ in probe.parts])
    return {
        "rows": sum(len(sequences) for sequences, _ in probe.parts),
        "time_steps": sorted(probe.times),
        "same_as": probe.same_as,
        "lowest": [float(value) for value in np.nanmin(steps, axis=0)],
        "highest": [float(value) for value in np.nanmax(steps, axis=0)],
        "example": example(probe.parts[len(probe.parts) // 2][0]),
    }


def example(sequences: Floats) -> list[list[float | None]]:
    """One of the sequences, to be looked at: its first features, and the first steps of each; None for NaN."""
    shown = sequences[len(sequences) // 2, :EXAMPLE_STEPS, :EXAMPLE_FEATURES].T
    return [[None if np.isnan(value) else rounded(float(value)) for value in feature] for feature in shown]


def _padding(made: "_Making") -> Iterator[Probe]:
    """Real rows with nothing, something and more or less after their ends."""
    sequences, lengths = made.real_rows()
    after = np.arange(sequences.shape[1]) >= lengths[:, None]
    plain = np.where(after[..., None], np.float32(0), sequences)
    yield Probe("rows", ((plain, lengths),))
    for name, filling in (("padding_values", made.far(made.time, len(plain))[0]), ("padding_nan", np.float32(np.nan))):
        yield Probe(name, ((np.where(after[..., None], filling, plain).astype(np.float32), lengths),), "rows")
    more = np.zeros((len(plain), max(1, int(made.time * LONGER_SHARE)), plain.shape[2]), np.float32)
    yield Probe("padding_longer", ((np.concatenate([plain, more], axis=1), lengths),), "rows")
    cut = tuple((plain[i : i + 1, :length], lengths[i : i + 1]) for i, length in enumerate(lengths))
    yield Probe("unpadded", cut, "rows")


class _Making:
    """What the probes are made from: some values of the test split, and what kind each feature is of."""

    def __init__(self, data: Prepared, features: list[Feature]) -> None:
        self.test = data.split("test")
        self.time, self.ragged = data.schema.time_steps, data.schema.ragged
        self.mean = np.array(data.schema.mean)
        self.deviation = np.array([value if value > 0 else 1.0 for value in data.schema.deviation])
        self.coded = np.array([feature.codes is not None for feature in features])
        # What stands for zero where zero is none of a feature's codes.
        self.nothing = np.array(
            [0 if each.codes is None or 0 in each.codes else each.codes[0] for each in features], np.float32
        )

    def real_rows(self) -> tuple[Floats, Lengths]:
        """Rows from the shortest to the longest; half of one that fills the time axis, so that padding follows."""
        assert self.test.lengths is not None
        order = np.argsort(np.array(self.test.lengths), kind="stable")
        rows = order[np.linspace(0, len(order) - 1, min(OTHER_ROWS, len(order))).astype(int)]
        lengths = np.array(self.test.lengths[rows])
        lengths = np.where(lengths == self.time, np.maximum(1, lengths // 2), lengths).astype(np.int32)
        return np.array(self.test.sequences[rows]), lengths

    def far(self, time: int, count: int = FAR_ROWS) -> Rows:
        """Each value is taken from another row, and put further from its feature's mean.

        What the data hide shows here: a part that only matters outside their range, or where values that always go
        together do not. Of ragged data the lengths go from one step to all, and what comes after them is no zero.
        """
        features = self.test.sequences.shape[2]
        rows, steps, columns = np.ogrid[:count, :time, :features]
        mixed = (rows + steps * features + columns) % len(self.test.sequences)
        steps = steps % self.time
        if self.test.lengths is not None:
            steps = steps % np.array(self.test.lengths)[mixed]  # padding is no value of the feature
        values = self.test.sequences[mixed, steps, columns]
        spread = np.where(self.coded, values, self.mean + FAR_SPREAD * (values - self.mean))
        return spread.astype(np.float32), self._lengths(count, time)

    def others(self) -> dict[str, Rows]:
        """The probes of one question each, by name."""
        rows, steps, columns = np.ogrid[:OTHER_ROWS, : self.time, : len(self.mean)]
        chosen = np.arange(OTHER_ROWS) % len(self.test.sequences)
        real = np.array(self.test.sequences[chosen])
        of_rows = None if self.test.lengths is None else np.array(self.test.lengths[chosen])
        of_all = self._lengths(OTHER_ROWS, self.time)
        codes = real if of_rows is None else real[rows, steps % of_rows[:, None, None], columns]  # padding is no code

        levels = np.linspace(-FAR_SPREAD, FAR_SPREAD, OTHER_ROWS - 2)[:, None]
        alike = self.mean.mean() + levels * self.deviation.max() * np.ones(len(self.mean))
        constant = np.concatenate([[self.mean, self.mean + self.deviation], alike])[:, None] + 0 * steps
        quiet = np.where(rows % 2, real * QUIET_SHARE, self.mean + (real - self.mean) * QUIET_SHARE)
        inside = np.arange(OTHER_ROWS) * 7 % (self.time if of_rows is None else of_rows)  # a step of each row
        gap = np.where(steps == inside[:, None, None], np.where(rows % 2, 0, self.mean), real)
        edge = np.where(rows >> (steps + columns) % 4 & 1, -LARGEST_HALF, LARGEST_HALF)

        made = {
            "zeros": (0 * real, self.nothing, of_all),
            "constant": (constant, real[:, :1], of_all),
            "quiet": (quiet, real, of_rows),
            "gap": (gap, np.where(steps == inside[:, None, None], self.nothing, real), of_rows),
            "edge": (edge, codes, of_all),
        }
        return {
            name: (np.where(self.coded, coded, numbers).astype(np.float32), lengths)
            for name, (numbers, coded, lengths) in made.items()
        }

    def _lengths(self, count: int, time: int) -> Lengths | None:
        return np.linspace(1, time, count).astype(np.int32) if self.ragged else None
