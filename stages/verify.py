"""Prove that each file computes what PyTorch computes: all logits in; their differences out, or a failure.

The checks go from the outside in: was the file executed, then its names, axes and classes, its shapes at other batch
sizes, its values. All that is wrong is collected and written before the stage fails.
"""

from typing import Annotated, Any, Literal

from shared.export import ExportParams
from shared.params import StageParams, read_params
from shared.predictions import Prediction, find_reference, nest, read_predictions
from shared.stage import StageError, parse_args, rounded, run, write_json

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

Tolerance = Annotated[float, Field(gt=0)]


class Params(StageParams):
    """Section `verify`."""

    tolerance: dict[Literal["onnx", "coreml"], dict[str, Tolerance]]


def check_interface(found: Prediction, reference: Prediction, names: ExportParams) -> list[str]:
    """What the file declares against what it should: names, axes, types, classes."""
    declared, expected = found.record["interface"], reference.record["interface"]
    problems = []
    for key, name in (("input_name", names.input_name), ("output_name", names.output_name)):
        if declared[key] != name:
            problems.append(f"{key} is {declared[key]!r}; expected {name!r}")
    batch, *others = declared["input_axes"]
    if not isinstance(batch, str):
        problems.append(f"the batch axis is fixed at {batch}; expected a dynamic one")
    if others != expected["input_axes"][1:]:
        problems.append(f"the axes after the batch are {others}; expected {expected['input_axes'][1:]}")
    if declared["dtypes"] != expected["dtypes"]:
        problems.append(f"the tensors are {' and '.join(declared['dtypes'])}; expected float32")
    if declared["classes"] != expected["classes"]:
        problems.append(f"the stored classes are {declared['classes']}; expected {expected['classes']}")
    return problems


def check_shapes(found: Prediction, reference: Prediction, tolerance: float, spread: float) -> list[str]:
    """The logits' shape, on the whole split and at every probed batch size, and that the batch changes no values."""
    problems = []
    if found.logits.shape != reference.logits.shape:
        problems.append(f"the logits have shape {list(found.logits.shape)}; expected {list(reference.logits.shape)}")
    for size, probe in found.record["probes"].items():
        expected = [int(size), reference.logits.shape[1]]
        if probe["shape"] != expected:
            problems.append(f"at batch {size} the logits have shape {probe['shape']}; expected {expected}")
        elif not probe["max_absolute_difference"] <= tolerance * spread:
            problems.append(
                f"at batch {size} the logits differ by {probe['max_absolute_difference']} from the whole split's"
            )
    return problems


def compare(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, Any]:
    """How far logits (rows, classes) are from PyTorch's, which must not all be equal.

    Returns:
        - `max_absolute_error`, `mean_absolute_error`: over all logits.
        - `relative_error`: the root mean square of the error, divided by the standard deviation of PyTorch's logits. It
          is what the tolerance bounds: unlike the largest error it does not grow with the number of rows.
        - `psnr_db`: 20 log10(range of PyTorch's logits / root mean square of the error); None if there is no error.
        - `argmax_agreement`: the share of rows with the same predicted class.
        - `flips`: the rows whose predicted class differs; `largest_flipped_margin`: how far PyTorch's two best logits
          are apart in the clearest of them; `flips_within_margin`: whether that is at most twice the largest error of
          the rows that did not flip, so that the rounding seen everywhere explains every flip.
    """
    reference = reference.astype(np.float64)
    error = np.abs(logits - reference)
    spread = float(reference.std())
    rms = float(np.sqrt(np.square(error).mean()))
    flipped = logits.argmax(axis=1) != reference.argmax(axis=1)
    best = np.sort(reference[flipped], axis=1)
    margin = float((best[:, -1] - best[:, -2]).max(initial=0))
    return {
        "max_absolute_error": rounded(float(error.max()), 3),
        "mean_absolute_error": rounded(float(error.mean()), 3),
        "relative_error": rounded(rms / spread, 3),
        "psnr_db": rounded(20 * np.log10(float(np.ptp(reference)) / rms), 3) if rms else None,
        "argmax_agreement": rounded(1 - float(flipped.mean())),
        "flips": int(flipped.sum()),
        "largest_flipped_margin": rounded(margin, 3),
        "flips_within_margin": margin <= 2 * float(error[~flipped].max(initial=0)),
    }


def verify(found: Prediction, reference: Prediction, names: ExportParams, tolerance: float) -> dict[str, Any]:
    """All figures of one file, and under `problems` everything that is wrong with it, in words."""
    spread = float(reference.logits.std(dtype=np.float64))
    figures: dict[str, Any] = {
        "executor": found.record["executor"],
        "executor_version": found.record["executor_version"],
        "platform": found.record["platform"],
        "tolerance": tolerance,
    }
    problems = [*check_interface(found, reference, names), *check_shapes(found, reference, tolerance, spread)]
    if found.logits.shape == reference.logits.shape:
        if np.isfinite(found.logits).all():
            figures |= compare(found.logits, reference.logits)
            if figures["relative_error"] > tolerance:
                problems.append(f"relative error {figures['relative_error']} is above the tolerance {tolerance}")
        else:
            problems.append("some logits are not finite")
    return figures | {"problems": problems, "passed": not problems}


def verify_all(
    predictions: list[Prediction], names: ExportParams, params: Params
) -> dict[tuple[str, str], dict[str, Any]]:
    """Figures of every file that was executed or should have been."""
    reference = find_reference(predictions)
    if not np.ptp(reference.logits) > 0:
        raise StageError("PyTorch's logits are all equal or not finite: there is nothing to measure an error against")
    tolerances: dict[tuple[str, str], float] = {
        (file_format, precision): tolerance
        for file_format, precisions in params.tolerance.items()
        for precision, tolerance in precisions.items()
    }
    figures: dict[tuple[str, str], dict[str, Any]] = {}
    for found in predictions:
        key = (found.format, found.precision)
        if found is reference:
            continue
        if key in tolerances:
            figures[key] = verify(found, reference, names, tolerances.pop(key))
        else:
            problem = f"no tolerance to judge it by: add verify.tolerance.{found.format}.{found.precision}"
            figures[key] = {"problems": [problem], "passed": False}
    for key in tolerances:
        figures[key] = {"problems": ["it was not executed: no prediction was found"], "passed": False}
    return figures


def main() -> None:
    """Read the arguments and the parameters; write every finding, then fail if there is a problem."""
    args = parse_args(
        __doc__,
        inputs={"predictions": "the folder of all logits"},
        outputs={"metrics": "the differences of every file (JSON)"},
    )
    names = read_params("export", ExportParams)
    params = read_params("verify", Params)
    figures = verify_all(list(read_predictions(args.predictions)), names, params)
    write_json(args.metrics, nest(figures))
    problems = [
        f"{file_format} {precision}: {problem}"
        for (file_format, precision), figure in figures.items()
        for problem in figure["problems"]
    ]
    if problems:
        raise StageError("; ".join(problems))


if __name__ == "__main__":
    run(main)
