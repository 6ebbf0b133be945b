"""Run every exported file of one format on the test split: a folder of models in; logits and execution records out.

For each file, `<precision>.npy` holds its logits (rows, classes) in float32, and `<precision>.json` who computed them,
what the file declares of itself, how it behaved at other batch sizes, and its logits of sequences that the data do not
hold (see `shared/execution/probes.py`). The format's own runtime computes them. In a folder called `web` it is ONNX
Runtime in WebAssembly, as browsers have it, of at most 20,000 rows; in one called `onnx_reference` ONNX's own
evaluator, of at most 512. Where one of these is not installed, or does not know an operation, there is only the reason,
under `left_out`.

Each file runs in processes of its own, of one thread each: as many as may compute at a time share its batches, whose
borders stay where they are, so that the logits have the same bytes on any number of cores. Too few for WebAssembly to
start twice are run by one. Of a file that cannot be executed, that crashes there, hangs or takes too much memory, there
is only the reason, under `failure`: `verify` rejects it after it has judged all others. Where it is the machine that
fails, the stage does, and nothing is written.
"""

import os
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from shared.data.chunks import chunks
from shared.data.sequences import Prepared, SplitArrays, chosen_rows, read_rows
from shared.execution.isolation import START_METHOD, Limits, Task, all_apart, at_a_time, still_working
from shared.execution.probes import Probe, Rows, accepts, describe, features_of, probes_of, reads
from shared.execution.runtimes import (
    Floats,
    LeftOutError,
    PyTorchRuntime,
    Runtime,
    import_runtimes,
    open_elsewhere,
    open_runtime,
    why_not_run,
)
from shared.files.artifacts import discard_unlisted, find_artifacts, is_left_out
from shared.files.formats import OTHER_EXECUTORS
from shared.kit.params import Count, StageParams, read_params
from shared.kit.stage import (
    StageError,
    machine_fault,
    one_line,
    parse_args,
    remove,
    replacing,
    rounded,
    run,
    write_json,
)

import numpy as np
from pydantic import Field
from tqdm import tqdm

Probed = Annotated[int, Field(gt=0, le=65_536)]
"""A size that is tried in memory: more is taken for a slip, which no file is to blame for."""


MOST_ROWS = {"web": 20_000, "onnx_reference": 512}
"""Of the test split, evenly spread: what slower executors run."""

WORTH_A_PROCESS = {"web": 50}
"""Batches that a first process runs before a second one helps: to start node takes as long as some dozens of them."""


class Params(StageParams):
    """Section `predict`."""

    batch_size: Count
    probe_batches: list[Probed] = Field(min_length=1)
    probe_times: list[Probed]
    memory_megabytes: Count
    timeout_seconds: float = Field(gt=0, le=1_000_000)


class Share(NamedTuple):
    """What one of the processes that run a file does: a run of its batches; the first process all else, too."""

    number: int
    of: int

    def rows(self, count: int, batch_size: int, at_first: int) -> range:
        """The rows that this process runs of so many; their ends lie where those of batches do.

        Args:
            count: Of all rows.
            batch_size: Of a batch.
            at_first: Rows that the first process runs at least: those that it runs again at other sizes.
        """
        total = -(-count // batch_size)
        first = min(total, max(-(-total // self.of), -(-at_first // batch_size)))
        borders = [0, *np.linspace(first, total, self.of).astype(int)]
        start, stop = (min(count, int(border) * batch_size) for border in borders[self.number : self.number + 2])
        return range(start, stop)


ALL = Share(0, 1)


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


def predict(runtime: Runtime, test: SplitArrays, share: range, batch_size: int, title: str, file: Path) -> None:
    """Write the logits of some rows of the test split to their places in a .npy file (rows, classes), as they come.

    Other processes may write others there: each makes the file, and its header, if it is not there.

    Raises:
        ValueError: The number of rows or classes of a batch is another than it should be.
    """
    rows = slice(share.start, share.stop)
    part = (test.sequences[rows], None if test.lengths is None else test.lengths[rows])
    file.touch()
    with file.open("r+b") as out, tqdm(total=len(share), desc=title, unit="row", disable=None) as progress:
        classes: int | None = None
        for logits in batches(runtime, part, batch_size):
            if classes is None:
                classes = logits.shape[1]
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(test.sequences), classes)}
                np.lib.format.write_array_header_1_0(out, header)
                out.truncate(out.tell() + len(test.sequences) * logits[0].nbytes)
                out.seek(share.start * logits[0].nbytes, os.SEEK_CUR)
            if logits.shape[1] != classes:
                raise ValueError(f"a batch gave {logits.shape[1]} logits a row, the one before it {classes}")
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


def execute(
    path: Path, data: Prepared, params: Params, file: Path, executor: str | None = None, share: Share = ALL
) -> dict[str, Any]:
    """Run one file on its share of the test split, into a file of logits, at other batch sizes, and on every probe.

    Returns:
        The record of the execution, or of why the executor leaves the file out. Nothing, but of the first share.

    Raises:
        StageError: The file cannot be opened, or its runtime fails on a batch of the split.
    """
    runtime, test = open_runtime(path), data.split("test")
    interface = runtime.interface
    if executor in MOST_ROWS and MOST_ROWS[executor] < len(test.sequences):
        test = read_rows(test, chosen_rows(len(test.sequences), MOST_ROWS[executor]))
    largest = min(params.batch_size, interface.largest_batch or params.batch_size)
    batch_size = 1 if runtime.batch_dependent else largest
    sizes = sorted({*params.probe_batches, interface.largest_batch or largest})
    alone = WORTH_A_PROCESS.get(executor or "", 1) * batch_size
    rows = share.rows(len(test.sequences), batch_size, at_first=max(sizes[-1], alone))
    if share.number > 0 and not rows:
        return {}
    if executor is not None:
        try:
            runtime = open_elsewhere(path, executor, runtime)
        except LeftOutError as reason:
            return {"left_out": str(reason)}
    try:
        predict(runtime, test, rows, batch_size, path.name, file)
        if share.number > 0:
            return {}
        logits = np.load(file, mmap_mode="r")
        tried = {str(size): try_batch(runtime, test, logits, size) for size in sizes}
    except Exception as error:  # what a runtime raises has no common base
        raise StageError(f"{path}: {runtime.executor} failed: {one_line(error)}") from None
    probes = probes_of(data, [time for time in params.probe_times if reads(interface, time)])
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
    files: dict[Path, Path], data: Prepared, params: Params, limits: Limits, executor: str | None
) -> list[dict[str, Any]]:
    """`execute` each file into another one, in processes of its own.

    Returns:
        Their records; of a file that fails in one of its processes, why it does so in the first of them.

    Raises:
        MachineError, OSError, MemoryError: It is the machine that fails.
    """
    processes = at_a_time(params.memory_megabytes)
    rows = min(data.schema.rows["test"], MOST_ROWS.get(executor or "", sys.maxsize))
    # One that starts from nothing imports its runtime, which takes longer than its share of most tables.
    of = min(processes, -(-rows // params.batch_size)) if START_METHOD == "fork" else 1
    tasks = [
        Task(execute, (path, data, params, logits, executor, Share(number, of)), what=path)
        for path, logits in files.items()
        for number in range(of)
    ]
    results = all_apart(tasks, limits, processes)
    records: list[dict[str, Any]] = []
    for index, logits in enumerate(files.values()):
        shares = results[index * of : (index + 1) * of]
        failures = [each for each in shares if isinstance(each, StageError)]
        if failures:
            remove(logits)
        records.append({"failure": str(failures[0])} if failures else shares[0])
    return records


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
        files = {path: folder / f"{precision}.npy" for precision, path in artifacts.items()}
        for path in files:
            check_readable(path)
        records = run_apart(files, data, params, limits, executor)
        for logits, record in zip(files.values(), records, strict=True):
            write_json(logits.with_suffix(".json"), record)
    for path, record in zip(files, records, strict=True):
        if "left_out" in record:
            print(f"predict: {executor} leaves out {path.name}: {record['left_out']}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
