"""Run every exported file of one format on the test split: a folder of models in; logits and execution records out.

For each file, `<precision>.npy` holds its logits (rows, classes) in float32, and `<precision>.json` who computed them,
what the file declares of itself, how it behaved at other batch sizes, and its logits of sequences that the data do not
hold (see `shared/execution/probes.py`). The format's own runtime computes them. In a folder called `web` it is ONNX
Runtime in WebAssembly, as browsers have it, of at most 20,000 rows; in one called `onnx_reference` ONNX's own
evaluator, of at most 512. Where one of these is not installed, or does not know an operation, there is only the reason,
under `left_out`.

Each file runs in a process of its own. Of one that cannot be executed, that crashes there, hangs or takes too much
memory, there is only the reason, under `failure`: `verify` rejects it after it has judged all others. Where it is the
machine that fails, the stage does, and nothing is written.
"""

import platform
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from shared.data.chunks import chunks
from shared.data.sequences import Prepared, SplitArrays, chosen_rows, read_rows
from shared.execution.isolation import START_METHOD, Limits, MachineError, call_apart, for_each, still_working
from shared.execution.probes import Probe, Rows, accepts, describe, features_of, probes_of, reads
from shared.execution.runtimes import (
    Floats,
    LeftOutError,
    PyTorchRuntime,
    Runtime,
    import_runtimes,
    open_runtime,
    why_not_run,
)
from shared.files.artifacts import discard_unlisted, find_artifacts, is_left_out
from shared.files.formats import OTHER_EXECUTORS
from shared.params import Count, StageParams, read_params
from shared.stage import StageError, machine_fault, one_line, parse_args, remove, replacing, rounded, run, write_json

import numpy as np
from pydantic import Field
from tqdm import tqdm

Probed = Annotated[int, Field(gt=0, le=65_536)]
"""A size that is tried in memory: more is taken for a slip, which no file is to blame for."""


MOST_ROWS = {"web": 20_000, "onnx_reference": 512}
"""Of the test split, evenly spread: what slower executors run."""


class Params(StageParams):
    """Section `predict`."""

    batch_size: Count
    probe_batches: list[Probed] = Field(min_length=1)
    probe_times: list[Probed]
    memory_megabytes: Count
    timeout_seconds: float = Field(gt=0, le=1_000_000)


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
        still_working()


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
        if machine_fault(error):
            raise
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


def execute(path: Path, data: Prepared, params: Params, file: Path, executor: str | None = None) -> dict[str, Any]:
    """Run one file on the test split, into a file of logits, at other batch sizes, and on every probe that it reads.

    Returns:
        The record of the execution, or of why the executor leaves the file out.

    Raises:
        StageError: The file cannot be opened, or its runtime fails on a batch of the split.
    """
    try:
        runtime = open_runtime(path, executor)
    except LeftOutError as reason:
        return {"left_out": str(reason)}
    interface, test = runtime.interface, data.split("test")
    if executor in MOST_ROWS and MOST_ROWS[executor] < len(test.sequences):
        test = read_rows(test, chosen_rows(len(test.sequences), MOST_ROWS[executor]))
    largest = min(params.batch_size, interface.largest_batch or params.batch_size)
    batch_size = 1 if runtime.batch_dependent else largest
    probes = probes_of(data, [time for time in params.probe_times if reads(interface, time)])
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
        "interface": interface.model_dump(),
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


def limits_of(params: Params, data: Prepared) -> Limits:
    """What a file may take, in a process that maps the test split and the logits into memory."""
    schema, test = data.schema, data.split("test")
    mapped = test.sequences.nbytes + test.labels.nbytes + 4 * schema.rows["test"] * (1 + len(schema.classes))
    return Limits(params.timeout_seconds, params.memory_megabytes, "predict", 2 * mapped)


def run_apart(
    files: tuple[Path, Path], data: Prepared, params: Params, limits: Limits, executor: str | None
) -> dict[str, Any]:
    """`execute` a file into another one, in a process of its own; of one that fails, the record of why.

    Raises:
        MachineError, OSError, MemoryError: It is the machine that fails.
    """
    path, logits = files
    try:
        check_readable(path)
        record: dict[str, Any] = call_apart(execute, path, data, params, logits, executor, what=path, limits=limits)
    except MachineError:
        raise
    except StageError as error:
        remove(logits)
        return {"failure": str(error)}
    return record


def check_readable(path: Path) -> None:
    """See whether the system lets a file, or those of a package, be read; what they hold is another question.

    Raises:
        OSError: It does not.
    """
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_dir():
            next(file.iterdir(), None)
        elif file.is_file():
            with file.open("rb") as opened:
                opened.read(1)


def main() -> None:
    """Read the arguments and the parameters; run every file."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays", "models": "the folder of one format's files"},
        outputs={"predictions": "the folder of their logits, which has the format's name, or the executor's"},
    )
    params = read_params("predict", Params)
    data = Prepared(args.prepared)
    limits = limits_of(params, data)  # opens the rows: damage to them is no file's fault
    discard_unlisted(args.models)
    artifacts = find_artifacts(args.models)
    if (missing := why_not_run(list(artifacts.values()))) is not None:
        raise StageError(f"{args.models}: its files cannot be run: {missing}")
    if not artifacts and not any(is_left_out(path) for path in args.models.iterdir()):
        raise StageError(f"{args.models}: no exported file in this folder")
    executor = args.predictions.name if args.predictions.name in OTHER_EXECUTORS else None
    if START_METHOD == "fork":
        import_runtimes(list(artifacts.values()))
    with replacing(args.predictions) as folder:
        folder.mkdir()
        files = [(path, folder / f"{precision}.npy") for precision, path in artifacts.items()]
        records = list(for_each(partial(run_apart, data=data, params=params, limits=limits, executor=executor), files))
        for (_, logits), record in zip(files, records, strict=True):
            write_json(logits.with_suffix(".json"), record)
    for (path, _), record in zip(files, records, strict=True):
        if "left_out" in record:
            print(f"predict: {executor} leaves out {path.name}: {record['left_out']}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
