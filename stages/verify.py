"""Prove that each file computes what PyTorch computes: all logits in; their differences out, or a failure.

The checks go from the outside in, and each problem starts with the name of the one that found it:

    executed   the file ran
    interface  its tensor names, axes and types, and the features and classes that it stores
    shapes     its logits' shape, on the whole split and at other batch sizes, and that the batch changes no values
    values     its logits against PyTorch's: all of them, each class's, the worst, and outside the data
    accuracy   the share of right answers that it loses

All that is wrong is collected and written before the stage fails.
"""

from pathlib import Path
from typing import Annotated, Any

from shared.conversion.export import ExportParams
from shared.data.sequences import Prepared
from shared.execution.predictions import Prediction, find_reference, nest, read_predictions
from shared.judging.parity import BIN_EDGES, Comparison, Scale, compare, measure
from shared.params import StageParams, read_params
from shared.stage import StageError, parse_args, read_json, rounded, run, write_bytes, write_json

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

Exported = Annotated[str, Field(pattern="^(onnx|coreml)$")]

Key = tuple[str, str]
"""Format and precision of a file."""


class Tolerance(StageParams):
    """How far one file may be from PyTorch: its logits, and what they are worth on the task."""

    relative_error: float = Field(gt=0)
    accuracy_loss: float = Field(ge=0)


class Params(StageParams):
    """Section `verify`."""

    tolerance: dict[Exported, dict[str, Tolerance]]
    largest_error: float = Field(ge=1)


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
    accuracy_loss: float | None,
) -> tuple[dict[str, Any], Comparison | None]:
    """All figures of one executed file, under `problems` everything that is wrong with it in words, and its errors."""
    tolerance = params.tolerance[found.format][found.precision]
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
    judges_batches = comparison is not None and not figures["batch_dependent"]
    problems = [
        *check_interface(found, reference, names),
        *check_shapes(found, reference, tolerance.relative_error * scale.deviation if judges_batches else None),
        *values,
        *check_accuracy(accuracy_loss, tolerance),
    ]
    return figures | {"problems": problems, "passed": not problems}, comparison


def verify_all(
    predictions: list[Prediction], evaluation: dict[str, Any], names: ExportParams, params: Params
) -> tuple[dict[Key, dict[str, Any]], dict[Key, Comparison]]:
    """Figures of every file that was executed or should have been, and the errors of those with comparable logits."""
    reference = find_reference(predictions)
    scale = measure(reference.logits)
    listed = [(file_format, precision) for file_format, named in params.tolerance.items() for precision in named]
    figures: dict[Key, dict[str, Any]] = {}
    comparisons: dict[Key, Comparison] = {}
    for found in predictions:
        key = (found.format, found.precision)
        if found is reference:
            continue
        if found.failure:
            figures[key] = rejected(f"executed: {found.failure}")
        elif key not in listed:
            figures[key] = rejected(
                f"values: no tolerance to judge them by: add verify.tolerance.{'.'.join(key)}, or if no stage writes "
                "this file any more, delete it (`dvc checkout --allow-missing`)"
            )
        else:
            loss = accuracy_loss(found, reference, evaluation)
            figures[key], comparison = verify(found, reference, scale, names, params, loss)
            if comparison:
                comparisons[key] = comparison
    for key in listed:
        figures.setdefault(key, rejected("executed: no prediction was found"))
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


def parity_table(comparisons: dict[Key, Comparison]) -> pd.DataFrame:
    """How many logits of each file have an absolute error from `low` to below `high`."""
    return pd.DataFrame(
        [
            (*key, low, high, logits)
            for key, comparison in comparisons.items()
            for low, high, logits in zip(BIN_EDGES[:-1], BIN_EDGES[1:], comparison.errors, strict=True)
        ],
        columns=["format", "variant", "low", "high", "logits"],
    )


def flips_table(comparisons: dict[Key, Comparison], labels: NDArray[np.int64], classes: list[str]) -> pd.DataFrame:
    """The clearest flips of each file: classes by name, and the margin between PyTorch's two best logits."""
    return pd.DataFrame(
        [
            (
                *key,
                flip.row,
                *(classes[i] for i in (labels[flip.row], flip.expected, flip.predicted)),
                rounded(flip.margin, 3),
            )
            for key, comparison in comparisons.items()
            for flip in comparison.flips
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
