"""Prove that each file computes what PyTorch computes: all logits in; their differences out, or a failure.

The checks go from the outside in, and each problem starts with the name of the one that found it:

    executed   the file ran
    interface  its tensor names, axes, types and classes
    shapes     its logits' shape, on the whole split and at other batch sizes, and that the batch changes no values
    values     its logits against PyTorch's
    accuracy   the share of right answers that it loses

All that is wrong is collected and written before the stage fails.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.chunks import chunks
from shared.export import ExportParams
from shared.params import StageParams, read_params
from shared.predictions import Prediction, find_reference, nest, read_predictions
from shared.sequences import Prepared
from shared.stage import StageError, parse_args, read_json, rounded, run, write_bytes, write_json

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

Floats = NDArray[np.float32]

BIN_EDGES = np.array([0, *(float(f"{10 ** (third / 3):.3g}") for third in range(-27, 10))])
"""Of the histogram of absolute errors: three bins a decade from 1e-9 to 1e3, and one below."""

FLIPS_LISTED = 10  # of each file: the clearest


class Tolerance(StageParams):
    """How far one file may be from PyTorch: its logits, and what they are worth on the task."""

    relative_error: float = Field(gt=0)
    accuracy_loss: float = Field(ge=0)


class Params(StageParams):
    """Section `verify`."""

    tolerance: dict[Literal["onnx", "coreml"], dict[str, Tolerance]]
    largest_error: float = Field(ge=1)


@dataclass(frozen=True)
class Scale:
    """What the errors are measured against: the standard deviation and the range of PyTorch's logits."""

    deviation: float
    range: float


@dataclass(frozen=True)
class Comparison:
    """What one pass over a file's logits gives.

    Attributes:
        figures: See `compare`.
        errors: How many absolute errors fall into each bin between `BIN_EDGES`; the last one takes all above, too.
        flips: The clearest flips: row of the test split, PyTorch's class and the file's as indices, margin.
    """

    figures: dict[str, Any]
    errors: NDArray[np.int64]
    flips: list[tuple[int, int, int, float]]


def check_interface(found: Prediction, reference: Prediction, names: ExportParams) -> list[str]:
    """What the file declares against what it should: names, axes, types, features, classes."""
    declared, expected = found.record["interface"], reference.record["interface"]
    axes = expected["input_axes"]
    expected = expected | {
        "input_name": names.input_name,
        "lengths_name": names.lengths_name if "int32" in expected["dtypes"] else None,
        "output_name": names.output_name,
        "input_axes": [axes[0], "time" if names.dynamic_time else axes[1], axes[2]],
    }
    problems = [
        f"interface: {key} {declared[key]!r}; expected {expected[key]!r}"
        for key in ("input_name", "lengths_name", "output_name", "dtypes", "features", "classes")
        if declared[key] != expected[key]
    ]
    problems += [
        f"interface: {key} {declared[key]}; expected {expected[key]}, where a name is a dynamic axis"
        for key in ("input_axes", "output_axes")
        if declared[key] is not None and sizes(declared[key]) != sizes(expected[key])
    ]
    return problems


def sizes(axes: list[int | str]) -> list[int | None]:
    """The sizes of the axes, None for those that are dynamic, which each format describes in its own words."""
    return [axis if isinstance(axis, int) else None for axis in axes]


def check_shapes(found: Prediction, reference: Prediction, largest_difference: float | None) -> list[str]:
    """The logits' shape on the whole split and at every probed batch size, and that the batch changes no values.

    By more than `largest_difference`, that is; None if the values at other batch sizes are not to be judged.
    """
    problems = []
    if found.logits.shape != reference.logits.shape:
        problems.append(
            f"shapes: the logits have shape {list(found.logits.shape)}; expected {list(reference.logits.shape)}"
        )
    for size, probe in found.record["probes"].items():
        expected = [int(size), reference.logits.shape[1]]
        difference = probe["max_absolute_difference"]
        if probe["shape"] != expected:
            problems.append(f"shapes: at batch {size} the logits have shape {probe['shape']}; expected {expected}")
        elif largest_difference is None:
            continue
        elif difference is None:
            problems.append(f"shapes: at batch {size} some logits are not finite")
        elif difference > largest_difference:
            problems.append(f"shapes: at batch {size} the logits differ by {difference} from the whole split's")
    return problems


def measure(reference: Floats) -> Scale:
    """Deviation and range of PyTorch's logits, in float64.

    Raises:
        StageError: They are all equal, or not all finite.
    """
    low, high, total, squares = np.inf, -np.inf, 0.0, 0.0
    for (logits,) in chunks(reference):
        low, high = min(low, float(logits.min())), max(high, float(logits.max()))
        total += float(logits.sum(dtype=np.float64))
    if not (np.isfinite(total) and low < high):
        raise StageError("PyTorch's logits are all equal or not finite: there is nothing to measure an error against")
    for (logits,) in chunks(reference):
        squares += float(np.square(logits.astype(np.float64) - total / reference.size).sum())
    return Scale(float(np.sqrt(squares / reference.size)), high - low)


def compare(logits: Floats, reference: Floats, scale: Scale) -> Comparison:
    """How far logits (rows, classes) are from PyTorch's.

    Its figures:
        - `max_absolute_error`, `mean_absolute_error`: over all logits.
        - `relative_error`: the root mean square of the error, divided by the standard deviation of PyTorch's logits.
          Unlike the largest error it does not grow with the number of rows.
        - `worst_class_error`: the same of the class whose logits are furthest off.
        - `largest_error`: of a single logit, divided by the same standard deviation.
        - `psnr_db`: 20 log10(range of PyTorch's logits / root mean square of the error); None if there is no error.
        - `argmax_agreement`: the share of rows with the same predicted class.
        - `flips`: the rows whose predicted class differs; `largest_flipped_margin`: how far PyTorch's two best logits
          are apart in the clearest of them; `flips_within_margin`: whether that is at most twice the largest error of
          the rows that did not flip, so that the rounding seen everywhere explains every flip.

    Raises:
        StageError: A logit is not finite.
    """
    first_row = flips = 0
    total = largest = largest_unflipped = 0.0
    squares = np.zeros(reference.shape[1])
    counts = np.zeros(len(BIN_EDGES) - 1, np.int64)
    clearest: list[tuple[int, int, int, float]] = []
    for ours, theirs in chunks(logits, reference):
        if not np.isfinite(ours).all():
            row = first_row + int(np.argmin(np.isfinite(ours).all(axis=1)))
            raise StageError(f"the logits of row {row} are not finite")
        error = np.abs(ours - theirs.astype(np.float64))
        total += float(error.sum())
        squares += np.square(error).sum(axis=0)
        largest = max(largest, float(error.max()))
        bins = np.searchsorted(BIN_EDGES[:-1], error.ravel(), side="right") - 1
        counts += np.bincount(bins, minlength=len(counts))

        predicted, expected = ours.argmax(axis=1), theirs.argmax(axis=1)
        flipped = np.flatnonzero(predicted != expected)
        flips += len(flipped)
        largest_unflipped = max(largest_unflipped, float(np.delete(error, flipped, axis=0).max(initial=0)))
        best = np.sort(theirs[flipped].astype(np.float64), axis=1)
        margins = best[:, -1] - best[:, -2]
        listed = np.argsort(-margins, kind="stable")[:FLIPS_LISTED]
        clearest += [
            (first_row + int(row), int(expected[row]), int(predicted[row]), float(margin))
            for row, margin in zip(flipped[listed], margins[listed], strict=True)
        ]
        clearest = sorted(clearest, key=lambda flip: -flip[3])[:FLIPS_LISTED]
        first_row += len(ours)
    rms = float(np.sqrt(squares.sum() / reference.size))
    margin = clearest[0][3] if clearest else 0.0
    figures = {
        "max_absolute_error": rounded(largest, 3),
        "mean_absolute_error": rounded(total / reference.size, 3),
        "relative_error": rounded(rms / scale.deviation, 3),
        "worst_class_error": rounded(float(np.sqrt(squares.max() / len(reference))) / scale.deviation, 3),
        "largest_error": rounded(largest / scale.deviation, 3),
        "psnr_db": rounded(20 * np.log10(scale.range / rms), 3) if rms else None,
        "argmax_agreement": rounded(1 - flips / len(reference)),
        "flips": flips,
        "largest_flipped_margin": rounded(margin, 3),
        "flips_within_margin": margin <= 2 * largest_unflipped,
    }
    return Comparison(figures, counts, clearest)


def made_up_errors(found: Prediction, reference: Prediction, scale: Scale) -> dict[str, float | None]:
    """The largest relative error of a logit on made-up sequences, by their number of time steps; None if not finite.

    It is relative to the deviation of PyTorch's logits on the test split or on these sequences, whichever is larger:
    outside the data logits may be larger, and so is what rounding does to them.
    """
    errors: dict[str, float | None] = {}
    for time, logits in found.record["made_up"].items():
        expected = reference.record["made_up"].get(time)
        if logits is None or expected is None:
            errors[time] = None
        else:
            ours, theirs = np.array(logits), np.array(expected)
            largest = float(np.abs(ours - theirs).max())
            errors[time] = rounded(largest / max(scale.deviation, float(theirs.std())), 3)
    return errors


def check_values(
    figures: dict[str, Any], made_up: dict[str, float | None], tolerance: Tolerance, params: Params
) -> list[str]:
    """The distance from PyTorch's logits: over all of them, of one class's, of a single one, and outside the data.

    The first two bound what is wrong everywhere or with one class. A rare error hides in a mean over many rows, so no
    single logit may be further off than rounding ever takes one; and what the data do not show at all, such as values
    outside their range or another number of time steps, made-up sequences do.
    """
    anywhere = rounded(params.largest_error * tolerance.relative_error)
    for error, words, allowed in (
        (figures["relative_error"], "relative error", tolerance.relative_error),
        (figures["worst_class_error"], "relative error of one class", tolerance.relative_error),
        (figures["largest_error"], "relative error of a single logit", anywhere),
        *(
            (error, f"relative error of a single logit on made-up sequences of {time} time steps", anywhere)
            for time, error in made_up.items()
        ),
    ):
        if error is None:
            return [f"values: {words} is not finite"]
        if error > allowed:
            return [f"values: {words} {error} is above the tolerance {allowed}"]
    return []


def check_accuracy(loss: float | None, tolerance: Tolerance) -> list[str]:
    """What the file is worth on the task, against PyTorch."""
    if loss is None:
        return ["accuracy: it has no figures"]
    if loss > tolerance.accuracy_loss:
        return [f"accuracy: {loss} of the rows are lost against PyTorch; allowed: {tolerance.accuracy_loss}"]
    return []


def verify(
    found: Prediction,
    reference: Prediction,
    scale: Scale,
    names: ExportParams,
    params: Params,
    tolerance: Tolerance,
    accuracy_loss: float | None,
) -> tuple[dict[str, Any], Comparison | None]:
    """All figures of one executed file, under `problems` everything that is wrong with it in words, and its errors."""
    figures: dict[str, Any] = {
        "executor": found.record["executor"],
        "executor_version": found.record["executor_version"],
        "platform": found.record["platform"],
        "batch_dependent": bool(found.record.get("batch_dependent")),
        "tolerance": tolerance.relative_error,
        "accuracy_loss": accuracy_loss,
        "allowed_accuracy_loss": tolerance.accuracy_loss,
    }
    comparison, values = None, []
    if found.logits.shape == reference.logits.shape:
        try:
            comparison = compare(found.logits, reference.logits, scale)
        except StageError as error:
            values = [f"values: {error}"]
        else:
            made_up = made_up_errors(found, reference, scale)
            errors = [error for error in made_up.values() if error is not None]
            figures |= comparison.figures | {"made_up_error": max(errors) if errors else None}
            values = check_values(figures, made_up, tolerance, params)
    compares_batches = comparison is not None and not figures["batch_dependent"]
    problems = [
        *check_interface(found, reference, names),
        *check_shapes(found, reference, tolerance.relative_error * scale.deviation if compares_batches else None),
        *values,
        *check_accuracy(accuracy_loss, tolerance),
    ]
    return figures | {"problems": problems, "passed": not problems}, comparison


def verify_all(
    predictions: list[Prediction], evaluation: dict[str, Any], names: ExportParams, params: Params
) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[tuple[str, str], Comparison]]:
    """Figures of every file that was executed or should have been, and the errors of those with comparable logits."""
    reference = find_reference(predictions)
    scale = measure(reference.logits)
    tolerances: dict[tuple[str, str], Tolerance] = {
        (file_format, precision): tolerance
        for file_format, precisions in params.tolerance.items()
        for precision, tolerance in precisions.items()
    }
    figures: dict[tuple[str, str], dict[str, Any]] = {}
    comparisons: dict[tuple[str, str], Comparison] = {}
    for found in predictions:
        key = (found.format, found.precision)
        tolerance = tolerances.pop(key, None)
        if found is reference:
            continue
        if found.failure:
            figures[key] = rejected(f"executed: {found.failure}")
        elif tolerance is None:
            figures[key] = rejected(f"values: no tolerance to judge them by: add verify.tolerance.{'.'.join(key)}")
        else:
            loss = accuracy_loss(found, reference, evaluation)
            figures[key], comparison = verify(found, reference, scale, names, params, tolerance, loss)
            if comparison:
                comparisons[key] = comparison
    for key in tolerances:
        figures[key] = rejected("executed: no prediction was found")
    return figures, comparisons


def rejected(problem: str) -> dict[str, Any]:
    """The figures of a file that there is nothing to measure of."""
    return {"problems": [problem], "passed": False}


def accuracy_loss(found: Prediction, reference: Prediction, evaluation: dict[str, Any]) -> float | None:
    """How much accuracy a file loses against PyTorch, negative where it gains; None if it has no figures."""
    try:
        theirs, ours = (float(evaluation[each.format][each.precision]["accuracy"]) for each in (reference, found))
    except KeyError:
        return None
    return round(theirs - ours, 6)


def parity_table(comparisons: dict[tuple[str, str], Comparison]) -> pd.DataFrame:
    """How many logits of each file have an absolute error from `low` to below `high`."""
    return pd.DataFrame(
        [
            (*key, low, high, logits)
            for key, comparison in comparisons.items()
            for low, high, logits in zip(BIN_EDGES[:-1], BIN_EDGES[1:], comparison.errors, strict=True)
        ],
        columns=["format", "variant", "low", "high", "logits"],
    )


def flips_table(
    comparisons: dict[tuple[str, str], Comparison], labels: NDArray[np.int64], classes: list[str]
) -> pd.DataFrame:
    """The clearest flips of each file: classes by name, and the margin between PyTorch's two best logits."""
    return pd.DataFrame(
        [
            (*key, row, classes[labels[row]], classes[theirs], classes[ours], rounded(margin, 3))
            for key, comparison in comparisons.items()
            for row, theirs, ours, margin in comparison.flips
        ],
        columns=["format", "variant", "row", "actual", "pytorch", "predicted", "margin"],
    )


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index."""
    write_bytes(path, table.to_csv(index=False).encode())


def main() -> None:
    """Read the arguments and the parameters; write every finding, then fail if there is a problem."""
    args = parse_args(
        __doc__,
        inputs={
            "prepared": "the folder of prepared arrays",
            "predictions": "the folder of all logits",
            "evaluation": "what each file is worth (JSON)",
        },
        outputs={
            "metrics": "the differences of every file (JSON)",
            "parity": "the histogram of every file's errors (CSV)",
            "flips": "the clearest flips of every file (CSV)",
        },
    )
    names = read_params("export", ExportParams)
    params = read_params("verify", Params)
    data = Prepared(args.prepared)
    predictions = list(read_predictions(args.predictions))
    figures, comparisons = verify_all(predictions, read_json(args.evaluation), names, params)
    write_json(args.metrics, nest(figures))
    write_csv(args.parity, parity_table(comparisons))
    write_csv(args.flips, flips_table(comparisons, data.split("test").labels, data.schema.classes))
    problems = [
        f"{file_format} {precision}: {problem}"
        for (file_format, precision), figure in figures.items()
        for problem in figure["problems"]
    ]
    if problems:
        raise StageError("; ".join(problems))


if __name__ == "__main__":
    run(main)
