"""Judge each file: all logits in; wrong, too lossy or fit to ship, the differences and the reasons out.

A file is wrong if a check finds a problem. The checks go from the outside in, and each problem starts with the name of
the one that found it:

    executed   the file ran
    interface  its tensor names, axes and types, and the features and classes that it stores
    shapes     its logits' shape, on the whole split and at other batch sizes, and that the batch changes no values
    values     its logits against PyTorch's: all of them, each class's, and the worst
    probes     its logits of sequences that the data do not hold, against PyTorch's
    padding    that its logits do not depend on what comes after a sequence's end, or on how much does

A file that is right is too lossy if it costs more on the task than `verify.accuracy_loss` or `verify.recall_loss`
allow. Whatever is found is written, and the pipeline goes on to the page: `accept` fails, after it.
"""

from pathlib import Path
from typing import Any

from shared.conversion.export import ExportParams
from shared.data.sequences import Prepared
from shared.execution.predictions import Prediction, find_reference, nest, read_predictions
from shared.judging.limits import Tolerance, VerifyParams
from shared.judging.parity import BIN_EDGES, Comparison, Scale, compare, measure
from shared.judging.probes import judge_file, judge_net
from shared.params import read_params
from shared.stage import StageError, parse_args, read_json, rounded, run, write_bytes, write_metrics

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Key = tuple[str, str]
"""Format and precision of a file."""


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
    for size, tried in found.record["batches"].items():
        expected = [int(size), reference.logits.shape[1]]
        difference = tried["max_absolute_difference"]
        if tried["shape"] != expected:
            problems.append(f"shapes: at batch {size} the logits have shape {tried['shape']}; expected {expected}")
        elif largest_difference is None:
            continue
        elif difference is None:
            problems.append(f"shapes: at batch {size} some logits are not finite")
        elif difference > largest_difference:
            problems.append(f"shapes: at batch {size} the logits differ by {difference} from the whole split's")
    return problems


def check_values(figures: dict[str, Any], tolerance: Tolerance, params: VerifyParams) -> list[str]:
    """The distance from PyTorch's logits: over all of them, of one class's, and of a single one.

    The first two bound what is wrong everywhere or with one class. A rare error hides in a mean over many rows, so no
    single logit may be further off than rounding ever takes one.
    """
    anywhere = rounded(params.largest_error * tolerance.relative_error)
    for error, words, allowed in (
        (figures["relative_error"], "relative error", tolerance.relative_error),
        (figures["worst_class_error"], "relative error of one class", tolerance.relative_error),
        (figures["largest_error"], "relative error of a single logit", anywhere),
    ):
        if error is None:
            return [f"values: {words} is not finite"]
        if error > allowed:
            return [f"values: {words} {error} is above the tolerance {allowed}"]
    return []


def what_weights_cost(found: Prediction, tolerance: Tolerance, params: VerifyParams) -> float:
    """How far a logit may be off because the file's weights are not the net's; those of fp32 and fp16 are, rounded."""
    return 0.0 if found.precision in ("fp32", "fp16") else params.largest_error * tolerance.relative_error


def task_losses(found: Prediction, reference: Prediction, evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """What a file loses on the task against PyTorch, negative where it gains; None if it has no figures.

    `accuracy_loss` is a share of the test split's rows; `recall_loss` a share of the rows of the class that loses most,
    and `recall_loss_class` its name.
    """
    try:
        theirs, ours = (evaluation[each.format][each.precision] for each in (reference, found))
        classes = {
            name: round(recall - ours["recall"][name], 6)
            for name, recall in theirs["recall"].items()
            if recall is not None
        }
        worst = max(classes, key=lambda name: classes[name])
        losses = {
            "accuracy_loss": round(theirs["accuracy"] - ours["accuracy"], 6),
            "recall_loss": classes[worst],
            "recall_loss_class": worst,
        }
    except KeyError:
        return None
    return losses | {key: value for key, value in ours.items() if key == "accuracy_loss_interval"}


def too_lossy(losses: dict[str, Any], file_format: str, params: VerifyParams) -> list[str]:
    """What a file costs on the task beyond what is allowed, in words."""
    words = []
    for key, of_what in (("accuracy_loss", "rows"), ("recall_loss", f"rows of class {losses['recall_loss_class']}")):
        allowed = params.allowed(getattr(params, key), file_format)
        if allowed is not None and losses[key] > allowed:
            words.append(f"{key}: {losses[key]} of the {of_what} are lost against PyTorch; allowed: {allowed}")
    return words


def outcome(problems: list[str], losses: list[str]) -> dict[str, Any]:
    """The verdict: `passed` is whether the file computes what it should."""
    verdict = "wrong" if problems else "too_lossy" if losses else "fit"
    return {"outcome": verdict, "passed": not problems, "problems": problems, "losses": losses}


def verify(
    found: Prediction,
    reference: Prediction,
    scale: Scale,
    names: ExportParams,
    params: VerifyParams,
    losses: dict[str, Any] | None,
) -> tuple[dict[str, Any], Comparison | None]:
    """All figures of one executed file, under `problems` everything that is wrong with it in words, and its errors."""
    tolerance = params.tolerance[found.format][found.precision]
    figures: dict[str, Any] = {
        "executor": found.record["executor"],
        "executor_version": found.record["executor_version"],
        "platform": found.record["platform"],
        "batch_dependent": bool(found.record.get("batch_dependent")),
        "tolerance": tolerance.relative_error,
        **(losses or {}),
    }
    comparison, values = None, []
    if found.logits.shape == reference.logits.shape:
        try:
            comparison = compare(found.logits, reference.logits, scale)
        except StageError as error:
            values = [f"values: {error}"]
        else:
            probes = judge_file(found, reference, scale, what_weights_cost(found, tolerance, params))
            errors = [error for error in probes.errors.values() if error is not None]
            figures |= comparison.figures | {"made_up_error": max(errors) if errors else None, "notes": probes.notes}
            values = [*check_values(figures, tolerance, params), *probes.problems]
    judges_batches = comparison is not None and not figures["batch_dependent"]
    problems = [
        *check_interface(found, reference, names),
        *check_shapes(found, reference, tolerance.relative_error * scale.deviation if judges_batches else None),
        *values,
        *([] if losses else ["executed: it has no figures on the task"]),
    ]
    return outcome(problems, too_lossy(losses, found.format, params) if losses else []) | figures, comparison


def verify_all(
    predictions: list[Prediction], evaluation: dict[str, Any], names: ExportParams, params: VerifyParams
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
            net = judge_net(reference, scale)
            if net.problems or net.notes:
                figures[key] = outcome(net.problems, []) | {"notes": net.notes}
            continue
        if found.failure:
            figures[key] = rejected(f"executed: {found.failure}")
        elif key not in listed:
            figures[key] = rejected(
                f"values: no tolerance to judge them by: add verify.tolerance.{'.'.join(key)}, or if no stage writes "
                "this file any more, delete it (`dvc checkout --allow-missing`)"
            )
        else:
            losses = task_losses(found, reference, evaluation)
            figures[key], comparison = verify(found, reference, scale, names, params, losses)
            if comparison:
                comparisons[key] = comparison
    for key in listed:
        figures.setdefault(key, rejected("executed: no prediction was found"))
    return figures, comparisons


def rejected(problem: str) -> dict[str, Any]:
    """The figures of a file that there is nothing to measure of."""
    return outcome([problem], [])


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
    """Read the arguments and the parameters; write every finding."""
    args = parse_args(
        __doc__,
        inputs={
            "prepared": "the folder of prepared arrays",
            "predictions": "the folder of all logits",
            "evaluation": "what each file is worth (JSON)",
        },
        outputs={
            "metrics": "the verdict on every file (JSON)",
            "parity": "the histogram of every file's errors (CSV)",
            "flips": "the clearest flips of every file (CSV)",
        },
    )
    names = read_params("export", ExportParams)
    params = read_params("verify", VerifyParams)
    data = Prepared(args.prepared)
    predictions = list(read_predictions(args.predictions))
    figures, comparisons = verify_all(predictions, read_json(args.evaluation), names, params)
    write_metrics(args.metrics, nest(figures))
    write_csv(args.parity, parity_table(comparisons))
    write_csv(args.flips, flips_table(comparisons, data.split("test").labels, data.schema.shown_classes))


if __name__ == "__main__":
    run(main)
