"""Judge each file: all logits and the files in; wrong, too lossy or fit to ship, the differences and the reasons out.

A file is wrong if a check finds a problem. The checks go from the outside in, and each problem starts with the name of
the one that found it:

    executed   the file ran
    interface  its tensor names, axes and types, and the features and classes that it stores
    shapes     its logits' shape, on the whole split and at other batch sizes, and that the batch changes no values
    weights    each weight, read back from the file, is the nearest that its scheme can represent to the source's
    graph      it computes what its very weights compute in the float32 graph, and that graph what PyTorch computes
    probes     the same of sequences that the data do not hold: far from them, quiet, constant, huge
    padding    its logits do not depend on what comes after a sequence's end, or on how much does

What they allow follows from the precision that a file computes in, and is chosen by nobody (see `shared/judging/`). A
file that is right is too lossy if it costs more on the task than `verify.accuracy_loss` or `verify.recall_loss` allow.
What other executors make of it (see `shared/judging/executors.py`) stands beside this: it decides on the devices that a
file is recommended to, not on the file.
Whatever is found is written, and the pipeline goes on to the page: `accept` fails, after it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.conversion.export import ExportParams
from shared.data.sequences import Prepared
from shared.execution.predictions import Prediction, find_reference, nest, read_others, read_predictions
from shared.execution.probes import Probe, probes_of
from shared.files.artifacts import find_artifacts
from shared.files.formats import EXPORTED, FORMATS, REFERENCE, folders
from shared.judging.executors import judge_batches, judge_elsewhere
from shared.judging.inside import FormatJudge, Net, load_net
from shared.judging.limits import VerifyParams
from shared.judging.parity import BIN_EDGES, Comparison, Scale, compare, measure
from shared.judging.precision import bound
from shared.judging.probes import judge_file, judge_net
from shared.kit.params import read_params
from shared.kit.stage import StageError, parse_args, read_json, rounded, run, write_metrics, write_table

import numpy as np
from numpy.typing import NDArray

EXPORT = "fp32"
"""The file of a format that the others are made from."""

Key = tuple[str, str]
"""Format and precision of a file."""

PARITY_COLUMNS = ("format", "variant", "low", "high", "logits")
FLIPS_COLUMNS = ("format", "variant", "row", "actual", "pytorch", "predicted", "margin")
"""Of the tables; classes stand there by name, and `margin` is between PyTorch's two best logits."""


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
    """The logits' shape on the whole split, and what `judge_batches` finds."""
    problems = []
    if found.logits.shape != reference.logits.shape:
        problems.append(
            f"shapes: the logits have shape {list(found.logits.shape)}; expected {list(reference.logits.shape)}"
        )
    return problems + judge_batches(found, reference.logits.shape[1], largest_difference)


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
        return {
            "accuracy_loss": ours["accuracy_loss"],
            "accuracy_loss_interval": ours["accuracy_loss_interval"],
            "recall_loss": classes[worst],
            "recall_loss_class": worst,
        }
    except KeyError:
        return None


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


@dataclass(frozen=True)
class Bench:
    """What every file is judged by.

    Attributes:
        reference: PyTorch's logits and answers.
        scale: Of these logits.
        net: The trained net itself.
        probes: The sequences that the data do not hold.
        evaluation: What each file is worth on the task.
        names: Those that the files should have.
        params: What they may cost.
    """

    reference: Prediction
    scale: Scale
    net: Net
    probes: list[Probe]
    evaluation: dict[str, Any]
    names: ExportParams
    params: VerifyParams


def verify(
    found: Prediction, path: Path, judge: FormatJudge, bench: Bench, others: dict[str, Prediction] | None = None
) -> tuple[dict[str, Any], Comparison | None]:
    """All figures of one executed file, under `problems` everything that is wrong with it in words, and its errors.

    Under `executors` stands what was found of it where another executor ran it.
    """
    reference, scale = bench.reference, bench.scale
    losses = task_losses(found, reference, bench.evaluation)
    figures: dict[str, Any] = {
        "executor": found.record["executor"],
        "executor_version": found.record["executor_version"],
        "platform": found.record["platform"],
        "batch_dependent": bool(found.record.get("batch_dependent")),
        **(losses or {}),
    }
    comparison, not_finite = None, []
    if found.logits.shape == reference.logits.shape:
        try:
            comparison = compare(found.logits, reference.logits, scale)
        except StageError as error:
            not_finite = [f"graph: {error}"]
        else:
            figures |= comparison.figures
    if found.precision == EXPORT:
        errors = comparison.figures if comparison else {}
        inside = judge.judge_export(path, errors.get("worst_class_error"), errors.get("largest_error"))
    else:
        inside = judge.judge_variant(path, found)
    figures |= inside.figures
    probed: list[str] = []
    largest_difference = None
    if comparison is not None and inside.precision is not None:
        expected = judge.answers(inside, found, reference, bench.probes)
        answered = judge_file(found, expected, scale, inside.precision)
        errors_there = [error for error in answered.errors.values() if error is not None]
        figures |= {"made_up_error": max(errors_there, default=None), "notes": answered.notes}
        probed = answered.problems
        most_flips = bench.params.allowed(bench.params.accuracy_loss, found.format)
        figures["executors"] = {
            name: judge_elsewhere(other, found, expected, scale, inside.precision, bench.net.rounding, most_flips)
            for name, other in (others or {}).items()
        }
        if not figures["batch_dependent"]:
            largest_difference = bound(inside.precision, bench.net.rounding) * scale.deviation
    problems = [
        *check_interface(found, reference, bench.names),
        *check_shapes(found, reference, largest_difference),
        *(problem for problem in inside.problems if problem.startswith("weights")),
        *not_finite,
        *(problem for problem in inside.problems if not (problem.startswith("weights") or not_finite)),
        *probed,
        *([] if losses else ["executed: it has no figures on the task"]),
    ]
    words = too_lossy(losses, found.format, bench.params) if losses else []
    return outcome(problems, words) | figures, comparison


def verify_all(
    predictions: list[Prediction], files: dict[Key, Path], bench: Bench, others: dict[str, list[Prediction]]
) -> tuple[dict[Key, dict[str, Any]], dict[Key, Comparison]]:
    """Figures of every file that there is or that was executed, and the errors of those with comparable logits."""
    executed = {(found.format, found.precision): found for found in predictions}
    elsewhere: dict[Key, dict[str, Prediction]] = {}
    for executor, given in others.items():
        for other in given:
            elsewhere.setdefault((other.format, other.precision), {})[executor] = other
    source = judge_net(bench.reference, bench.scale)
    figures: dict[Key, dict[str, Any]] = {REFERENCE: outcome(source.problems, []) | {"notes": source.notes}}
    comparisons: dict[Key, Comparison] = {}
    for file_format in EXPORTED:
        judge = FormatJudge(files.get((file_format, EXPORT)), bench.net, bench.scale)
        variants = {variant for kind, variant in (*files, *executed) if kind == file_format}
        for variant in sorted(variants, key=lambda variant: (variant != EXPORT, variant)):
            key = (file_format, variant)
            found = executed.get(key)
            if found is None:
                figures[key] = rejected("executed: no prediction was found")
            elif key not in files:
                figures[key] = rejected("executed: there are logits of it, but no such file")
            elif found.failure:
                figures[key] = rejected(f"executed: {found.failure}")
            else:
                figures[key], comparison = verify(found, files[key], judge, bench, elsewhere.get(key))
                if comparison:
                    comparisons[key] = comparison
                continue
            if variant == EXPORT:
                judge.give_up()
    for key, figure in witnesses(executed, bench.scale).items():
        figures[key] |= {"witness": figure}
    return figures, comparisons


def witnesses(executed: dict[Key, Prediction], scale: Scale) -> dict[Key, dict[str, Any]]:
    """How far our Core ML evaluator's logits are from those that Apple's Core AI runtime gives, file by file.

    The two files of a precision hold one net, converted by other tools and executed by other people's code: where both
    agree, neither is wrong in a way of its own. Nothing is judged by it. Compressed files hold other weights in each.

    Returns:
        Of each mlpackage: who the witness is, and errors as in `Comparison.figures`, from its logits.
    """
    found = {}
    for variant in FORMATS["coreml"].exported:
        ours, theirs = executed.get(("coreml", variant)), executed.get(("coreai", variant))
        if ours is None or theirs is None or ours.failure or theirs.failure or ours.record["executor"] != "reference":
            continue
        if ours.logits.shape != theirs.logits.shape:
            continue
        try:
            compared = compare(ours.logits, theirs.logits, scale).figures
        except StageError:  # some are not finite: each file's own verdict says so
            continue
        kept = {key: compared[key] for key in ("relative_error", "largest_error", "argmax_agreement")}
        found["coreml", variant] = {"executor": theirs.record["executor"], **kept}
    return found


def asked_at(probe: str) -> int:
    """The number of time steps in the name of a probe of other than the data's; 0 if there is none."""
    _, _, steps = probe.partition("far@")
    return int(steps) if steps.isdecimal() and len(steps) < 6 else 0


def set_up(
    data: Prepared, checkpoint: Path, predictions: list[Prediction], evaluation: dict[str, Any],
    names: ExportParams, params: VerifyParams,
) -> Bench:  # fmt: skip
    """Everything that files are judged by.

    Raises:
        StageError: PyTorch's logits are missing, or nothing can be measured by them; the checkpoint is damaged.
    """
    reference = find_reference(predictions)
    scale = measure(reference.logits)
    times = [steps for name in reference.record["probes"] if (steps := asked_at(name))]
    net = load_net(checkpoint, data.split("test"), scale)
    return Bench(reference, scale, net, probes_of(data, times), evaluation, names, params)


def rejected(problem: str) -> dict[str, Any]:
    """The figures of a file that there is nothing to measure of."""
    return outcome([problem], [])


def parity_table(comparisons: dict[Key, Comparison]) -> list[tuple[str, str, float, float, int]]:
    """How many logits of each file have an absolute error from `low` to below `high`: see `PARITY_COLUMNS`."""
    return [
        (*key, float(low), float(high), int(logits))
        for key, comparison in comparisons.items()
        for low, high, logits in zip(BIN_EDGES[:-1], BIN_EDGES[1:], comparison.errors, strict=True)
    ]


def flips_table(
    comparisons: dict[Key, Comparison], labels: NDArray[np.int64], classes: list[str]
) -> list[tuple[str, str, int, str, str, str, float]]:
    """The clearest flips of each file: see `FLIPS_COLUMNS`."""
    return [
        (
            *key,
            flip.row,
            classes[labels[flip.row]],
            classes[flip.expected],
            classes[flip.predicted],
            rounded(flip.margin, 3),
        )
        for key, comparison in comparisons.items()
        for flip in comparison.flips
    ]


def main() -> None:
    """Read the arguments and the parameters; write every finding."""
    args = parse_args(
        __doc__,
        inputs={
            "prepared": "the folder of prepared arrays",
            **folders(),
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
    files = {
        (folder, variant): path for folder in FORMATS for variant, path in find_artifacts(getattr(args, folder)).items()
    }
    evaluation = read_json(args.evaluation)
    bench = set_up(data, files[REFERENCE], predictions, evaluation, names, params)
    figures, comparisons = verify_all(predictions, files, bench, read_others(args.predictions))
    write_metrics(args.metrics, nest(figures))
    write_table(args.parity, PARITY_COLUMNS, parity_table(comparisons))
    flips = flips_table(comparisons, data.split("test").labels, data.schema.shown_classes)
    write_table(args.flips, FLIPS_COLUMNS, flips)


if __name__ == "__main__":
    run(main)
