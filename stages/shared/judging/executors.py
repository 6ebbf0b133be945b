"""The same file run by another executor than its format's own: does it compute there what was proved here?

A browser runs an ONNX file in WebAssembly, with kernels of its own; ONNX's evaluator is what the standard says. Each is
held to the logits of the format's own runtime, which `verify` holds to the file's weights: the bound is the precision's
(see `precision.py`). A file with 8-bit activations is held to the bound that its step has, which says little of a
decision, so no more of them may differ than `verify.accuracy_loss` allows to lose, whatever the precision.
"""

from typing import Any

from shared.data.sequences import chosen_rows
from shared.execution.predictions import Prediction
from shared.judging.inside import beyond
from shared.judging.parity import Scale, compare
from shared.judging.precision import Precision, bound
from shared.judging.probes import judge_file
from shared.kit.stage import StageError, rounded


def judge_elsewhere(
    other: Prediction, found: Prediction, expected: Prediction, scale: Scale, precision: Precision, rounding: float,
    most_flips: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Judge what another executor gave.

    Args:
        other: What it gave, of all rows or of some, chosen by `chosen_rows`.
        found: What the format's own runtime gave.
        expected: What the probes should give.
        scale: Of PyTorch's logits.
        precision: What the file computes in.
        rounding: How far one rounding in float32 takes the net's logits, as a part of their deviation.
        most_flips: The share of rows whose class may differ; None if any may.

    Returns:
        `passed`, `problems`, and the errors as `compare` names them; or, under `left_out`, why it was not run.
    """
    if "left_out" in other.record:
        return {"left_out": other.record["left_out"]}
    if other.failure:
        return {"passed": False, "problems": [f"executed: {other.failure}"]}
    figures: dict[str, Any] = {
        "executor_version": other.record["executor_version"],
        "platform": other.record["platform"],
        "rows": len(other.logits),
    }
    native = found.logits[chosen_rows(len(found.logits), len(other.logits))]
    allowed = rounded(bound(precision, rounding), 3)
    problems = []
    if other.logits.shape != native.shape:
        problems = [f"shapes: the logits have shape {list(other.logits.shape)}; expected {list(native.shape)}"]
    else:
        largest = None if other.record["batch_dependent"] else allowed * scale.deviation
        problems = judge_batches(other, native.shape[1], largest)
        try:
            errors = compare(other.logits, native, scale).figures
        except StageError as not_finite:
            problems.append(f"graph: {not_finite}")
        else:
            kept = ("relative_error", "worst_class_error", "largest_error", "flips", "argmax_agreement")
            figures |= {name: errors[name] for name in kept}
            own = "the format's own runtime"
            problems += beyond(errors["worst_class_error"], errors["largest_error"], allowed, own)
            differing = rounded(1 - errors["argmax_agreement"])
            if most_flips is not None and differing > most_flips:
                problems.append(f"decisions: {differing} of the rows get another class; allowed: {most_flips}")
        problems += judge_file(other, expected, scale, precision).problems
    return {"passed": not problems, "problems": problems, **figures}


def judge_batches(found: Prediction, classes: int, largest_difference: float | None) -> list[str]:
    """The logits' shape at every probed batch size, and that the batch changes no values.

    By more than `largest_difference`, that is; None if the values at other batch sizes are not to be judged.
    """
    problems = []
    for size, tried in found.record["batches"].items():
        expected = [int(size), classes]
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
