"""Run every exported file of one format on the test split: a folder of models in; logits and execution records out.

For each file, `<precision>.npy` holds its logits (rows, classes) in float32, and `<precision>.json` who computed them,
what the file declares of itself, how it behaved at other batch sizes, and its logits of sequences that the data do not
hold (see `shared/execution/probes.py`). Of a file that cannot be executed there is only the reason, under `failure`:
`verify` rejects it after it has judged all others.
"""

import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.data.chunks import chunks
from shared.data.sequences import Prepared, SplitArrays
from shared.execution.probes import Probe, Rows, accepts, describe, features_of, probes_of
from shared.execution.runtimes import Floats, PyTorchRuntime, Runtime, open_runtime
from shared.files.artifacts import discard_unlisted, find_artifacts
from shared.params import Count, StageParams, read_params
from shared.stage import StageError, one_line, parse_args, remove, replacing, rounded, run, write_json

import numpy as np
from pydantic import Field
from tqdm import tqdm


class Params(StageParams):
    """Section `predict`."""

    batch_size: Count
    probe_batches: list[Count] = Field(min_length=1)
    probe_times: list[Count]


def batches(runtime: Runtime, rows: Rows, batch_size: int) -> Iterator[Floats]:
    """Logits (batch, classes) of all rows, batch by batch.

    Raises:
        ValueError: The runtime gave another number of rows than it got.
    """
    for sequences, *lengths in chunks(*(array for array in rows if array is not None), rows=batch_size):
        logits = runtime.logits(np.ascontiguousarray(sequences), *lengths)
        if logits.ndim != 2 or len(logits) != len(sequences):
            raise ValueError(f"a batch of {len(sequences)} gave logits of shape {list(logits.shape)}")
        yield logits.astype(np.float32)


def predict(runtime: Runtime, test: SplitArrays, batch_size: int, title: str, file: Path) -> None:
    """Write the logits (rows, classes) of the test split to a .npy file as they come."""
    rows = len(test.sequences)
    with file.open("wb") as out, tqdm(total=rows, desc=title, unit="row", disable=None) as progress:
        for logits in batches(runtime, (test.sequences, test.lengths), batch_size):
            if out.tell() == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (rows, *logits.shape[1:])}
                np.lib.format.write_array_header_1_0(out, header)
            out.write(logits.tobytes())
            progress.update(len(logits))


def try_batch(runtime: Runtime, test: SplitArrays, logits: Floats, batch_size: int) -> dict[str, Any]:
    """Run the first `batch_size` rows alone: an export that baked a batch size into its graph differs or fails here."""
    rows = np.arange(batch_size) % len(logits)  # repeats a short split
    expected = logits[rows]
    lengths = None if test.lengths is None else test.lengths[rows]
    [result] = batches(runtime, (test.sequences[rows], lengths), batch_size)
    difference = np.abs(result - expected).max() if result.shape == expected.shape else np.nan
    return {
        "shape": list(result.shape),
        "max_absolute_difference": rounded(float(difference), 3) if np.isfinite(difference) else None,
    }


def answer(runtime: Runtime, probe: Probe, batch_size: int) -> dict[str, Any]:
    """A file's logits of one probe, or why it has none: also of PyTorch, which may refuse what no data hold.

    A logit that is not finite is null. PyTorch says as well how far rounding takes it there, see `exact_logits`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that numbers leave a precision's range, which is what some probes are for
            logits = np.concatenate([each for rows in probe.parts for each in batches(runtime, rows, batch_size)])
    except Exception as error:  # what a runtime raises has no common base
        return {"failure": f"{type(error).__name__}: {one_line(error)}"}
    finite = np.isfinite(logits)
    answered: dict[str, Any] = {
        "logits": [
            [rounded(float(logit), 9) if known else None for logit, known in zip(*row, strict=True)]
            for row in zip(logits, finite, strict=True)
        ]
    }
    if isinstance(runtime, PyTorchRuntime):
        exact = [runtime.exact_logits(*rows) for rows in probe.parts]
        known = [part for part in exact if part is not None]
        moved = np.abs(logits - np.concatenate(known)) if len(known) == len(exact) else np.array(np.nan)
        answered["rounding"] = rounded(float(moved.max()), 3) if np.isfinite(moved).all() else None
    return answered


def execute(path: Path, data: Prepared, params: Params, file: Path) -> dict[str, Any]:
    """Run one file on the whole split, into a file of logits, at other batch sizes, and on every probe that it reads.

    Returns:
        The record of the execution.

    Raises:
        StageError: The file cannot be opened, or its runtime fails on a batch of the split.
    """
    runtime = open_runtime(path)
    interface, test = runtime.interface, data.split("test")
    largest = min(params.batch_size, interface.largest_batch or params.batch_size)
    batch_size = 1 if runtime.batch_dependent else largest
    probes = probes_of(data, params.probe_times)
    try:
        predict(runtime, test, batch_size, path.name, file)
        logits = np.load(file, mmap_mode="r")
        sizes = sorted({*params.probe_batches, interface.largest_batch or largest})
        tried = {str(size): try_batch(runtime, test, logits, size) for size in sizes}
    except Exception as error:  # what a runtime raises has no common base
        raise StageError(f"{path}: {runtime.executor} failed: {one_line(error)}") from None
    return {
        "executor": runtime.executor,
        "executor_version": runtime.version,
        "platform": f"{platform.system()}-{platform.machine()}",
        "interface": interface.to_json(),
        "batch_dependent": runtime.batch_dependent,
        "batch_size": batch_size,
        "batches": tried,
        "features": {feature.name: feature.to_json() for feature in features_of(data)},
        "probes": {
            probe.name: describe(probe) | answer(runtime, probe, batch_size)
            for probe in probes
            if accepts(interface, probe, data.schema.time_steps)
        },
    }


def main() -> None:
    """Read the arguments and the parameters; run every file."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays", "models": "the folder of one format's files"},
        outputs={"predictions": "the folder of their logits"},
    )
    params = read_params("predict", Params)
    data = Prepared(args.prepared)
    discard_unlisted(args.models)
    artifacts = find_artifacts(args.models)
    if not artifacts:
        raise StageError(f"{args.models}: no exported file in this folder")
    with replacing(args.predictions) as folder:
        folder.mkdir()
        for precision, path in artifacts.items():
            try:
                record = execute(path, data, params, folder / f"{precision}.npy")
            except StageError as error:
                remove(folder / f"{precision}.npy")
                record = {"failure": str(error)}
            write_json(folder / f"{precision}.json", record)


if __name__ == "__main__":
    run(main)
