"""What files make of sequences that the data do not hold: each answer against PyTorch's, and padded against unpadded.

How far a logit may be off follows from the precision that the file computes in and from the net alone, never from a
recipe: PyTorch's record says of each probe how far rounding to float32 takes this very net from its float64 result,
and a coarser rounding takes it further in proportion.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shared.execution.predictions import Prediction
from shared.judging.parity import Scale
from shared.judging.precision import CALIBRATED, FLOAT16, FLOAT32, INT8, Precision, bound
from shared.kit.stage import rounded

import numpy as np
from numpy.typing import NDArray

SINGLE_LOGIT = 2
"""How much further than the root mean square of errors the largest of a probe may be: it has few logits."""


@dataclass(frozen=True)
class Judgement:
    """What the probes say.

    Attributes:
        problems: What is wrong with the file, each beginning with the name of the check: `probes` or `padding`.
        notes: What is to be known and is not the file's fault, in the same words.
        errors: The largest error of a logit in each probe that the notes do not excuse, as a part of the deviation of
            PyTorch's logits (on the test split or in the probe, whichever is larger); None if one is not finite.
    """

    problems: list[str]
    notes: list[str]
    errors: dict[str, float | None]


def judge_net(reference: Prediction, scale: Scale) -> Judgement:
    """What is wrong with the net itself, whatever it is exported to: its logits depend on padding.

    Notes say which probes it refuses, or answers with what is no number: its files are not to be blamed for those.
    """
    problems, notes = [], []
    for name, probe in reference.record["probes"].items():
        if "failure" in probe:
            notes.append(f"probes: the net itself refuses {name!r}: {probe['failure']}")
            continue
        if not np.isfinite(logits_of(probe)).all():
            notes.append(f"probes: the net itself gives logits that are not finite in {name!r}")
        error, allowed = padding_error(reference, name, scale), allowed_error(FLOAT32, reference, name, scale)
        if error > allowed:
            problems.append(
                f"padding: the net itself gives {name!r} other logits than {probe['same_as']!r}, though only padding "
                f"differs: relative error {error}; allowed: {allowed}"
            )
    return Judgement(problems, notes, {})


def judge_file(found: Prediction, reference: Prediction, scale: Scale, precision: Precision) -> Judgement:
    """Judge a file's answers.

    Args:
        found: The exported file's.
        reference: Those of PyTorch, whose net the file holds, or of the file's twin, if its weights are not the net's.
        scale: Of PyTorch's logits on the test split.
        precision: What the file computes in.
    """
    problems: list[str] = []
    notes: list[str] = []
    errors: dict[str, float | None] = {}
    for name, theirs, ours in expected_answers(found, reference):
        if ours is None:
            problems.append(f"probes: {name!r} was not run")
        elif "failure" in theirs:
            notes.append(f"probes: the net itself refuses {name!r}: {theirs['failure']}")
        elif "failure" in ours:
            problems.append(f"probes: {found.record['executor']} fails in {name!r}: {ours['failure']}")
        elif logits_of(ours).shape != logits_of(theirs).shape:
            problems.append(f"probes: in {name!r} the logits have shape {list(logits_of(ours).shape)}")
        else:
            error = relative_to(logits_of(theirs), logits_of(ours), scale)
            allowed = allowed_error(precision, reference, name, scale)
            wrong = []
            if error is None:
                wrong.append(f"probes: in {name!r} some logits are not finite, where PyTorch's are")
            elif error > allowed:
                wrong.append(f"probes: relative error of a logit in {name!r} {error} is above {allowed}")
            excuse = None
            if name == "edge" and precision is FLOAT16:
                excuse = "inside the net, numbers leave the range of float16"
            elif precision is INT8 and error is not None and name != "rows" and not theirs["same_as"]:
                excuse = "outside the data, 8 bits of the range of all numbers at once have no bound that the net shows"
            elif precision is CALIBRATED and error is not None:
                excuse = "inside the net, numbers leave the range that was calibrated"
            padding = _padding_problems(found, reference, name, scale, precision)
            problems += padding
            if excuse:
                notes += [f"{each}: {excuse}" for each in wrong]
            else:
                problems += [] if padding else wrong  # the reason is found
                errors[name] = error
    return Judgement(problems, notes, errors)


def _padding_problems(
    found: Prediction, reference: Prediction, name: str, scale: Scale, precision: Precision
) -> list[str]:
    """That a file's logits depend on what follows the sequences' ends, unless the net's own do."""
    error, allowed = padding_error(found, name, scale), allowed_error(precision, reference, name, scale)
    net_error = padding_error(reference, name, scale)
    if error <= allowed or net_error > allowed_error(FLOAT32, reference, name, scale):
        return []
    same = found.record["probes"][name]["same_as"]
    found_words = f"relative error {error}; allowed: {allowed}"
    return [f"padding: the logits of {name!r} are not those of {same!r}, though only padding differs: {found_words}"]


def expected_answers(
    found: Prediction, reference: Prediction
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any] | None]]:
    """PyTorch's answers to the probes that a file's time axis reads, and the file's; None: it has none."""
    interface, own_steps = found.record["interface"], set(reference.record["interface"]["input_axes"][1:2])
    for name, answer in reference.record["probes"].items():
        others = set(answer["time_steps"]) - own_steps
        largest = interface["largest_time"]
        if not others or (interface["dynamic_time"] and (largest is None or max(others) <= largest)):
            yield name, answer, found.record["probes"].get(name)


def logits_of(answer: dict[str, Any]) -> NDArray[np.float64]:
    """Logits (rows, classes) as recorded; NaN where they were not finite."""
    return np.array(answer["logits"], np.float64)


def deviation_of(expected: NDArray[np.float64], scale: Scale) -> float:
    """What errors are measured against: the deviation of PyTorch's logits on the split, or of these if it is larger.

    Outside the data logits may be larger, and so is what rounding does to them.
    """
    finite = expected[np.isfinite(expected)]
    return max(scale.deviation, float(finite.std())) if len(finite) else scale.deviation


def relative_to(expected: NDArray[np.float64], found: NDArray[np.float64], scale: Scale) -> float | None:
    """The largest error where the expected logit is finite, as a part of the deviation; None if one is not finite."""
    errors = np.abs(found - expected)[np.isfinite(expected)]
    largest = float(errors.max(initial=0))
    return rounded(largest / deviation_of(expected, scale), 3) if np.isfinite(largest) else None


def padding_error(found: Prediction, name: str, scale: Scale) -> float:
    """How far a file's logits of a probe are from its own of the probe that they must equal; 0 if there is no such."""
    answer = found.record["probes"][name]
    same = found.record["probes"].get(answer["same_as"], {"failure": "not run"})
    if "failure" in same or "failure" in answer:
        return 0.0
    error = relative_to(logits_of(same), logits_of(answer), scale)
    return np.inf if error is None else error


def allowed_error(precision: Precision, reference: Prediction, name: str, scale: Scale) -> float:
    """How far rounding may take a logit of a probe, as a part of the deviation."""
    answer = reference.record["probes"][name]
    rounding = (answer["rounding"] or 0) / deviation_of(logits_of(answer), scale)
    return rounded(SINGLE_LOGIT * bound(precision, rounding), 3)
