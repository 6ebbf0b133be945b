"""Run every exported file of one format on the test split: a folder of models in; logits and execution records out.

For each file, `<precision>.npy` holds its logits (rows, classes) in float32, and `<precision>.json` who computed them,
what the file declares of itself, and how it behaved at other batch sizes and other numbers of time steps. Of a file
that cannot be executed there is only the reason, under `failure`: `verify` rejects it after it has judged all others.
"""

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.data.chunks import chunks
from shared.data.sequences import Prepared
from shared.execution.runtimes import Floats, Lengths, Runtime, open_runtime
from shared.files.artifacts import discard_unlisted, find_artifacts
from shared.params import Count, StageParams, read_params
from shared.stage import StageError, one_line, parse_args, remove, replacing, rounded, run, write_json

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

Rows = tuple[Floats, Lengths | None]
"""Sequences (rows, time, features), and of ragged data their lengths (rows,)."""

MADE_UP_ROWS = 64
MADE_UP_SPREAD = 3


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


def predict(runtime: Runtime, data: Prepared, batch_size: int, title: str, file: Path) -> None:
    """Write the logits (rows, classes) of the test split to a .npy file as they come."""
    rows = data.schema.rows["test"]
    with file.open("wb") as out, tqdm(total=rows, desc=title, unit="row", disable=None) as progress:
        for logits in batches(runtime, read_rows(data, slice(None)), batch_size):
            if out.tell() == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (rows, *logits.shape[1:])}
                np.lib.format.write_array_header_1_0(out, header)
            out.write(logits.tobytes())
            progress.update(len(logits))


def read_rows(data: Prepared, chosen: slice | NDArray[np.int_]) -> Rows:
    """Some rows of the test split."""
    test = data.split("test")
    return test.sequences[chosen], None if test.lengths is None else test.lengths[chosen]


def probe_batch(runtime: Runtime, data: Prepared, logits: Floats, batch_size: int) -> dict[str, Any]:
    """Run the first `batch_size` rows alone: an export that baked a batch size into its graph differs or fails here."""
    rows = np.arange(batch_size) % len(logits)  # repeats a short split
    expected = logits[rows]
    [result] = batches(runtime, read_rows(data, rows), batch_size)
    difference = np.abs(result - expected).max() if result.shape == expected.shape else np.nan
    return {
        "shape": list(result.shape),
        "max_absolute_difference": rounded(float(difference), 3) if np.isfinite(difference) else None,
    }


def made_up(data: Prepared, time: int) -> Rows:
    """Sequences unlike any of the data, of any number of time steps.

    Each value is taken from another row, and put further from its feature's mean. What the data hide shows here: a part
    that only matters outside their range, or where values that always go together do not. Of ragged data the lengths go
    from one step to all, and what comes after them is no zero.
    """
    schema, test = data.schema, data.split("test")
    rows, steps, features = np.ogrid[:MADE_UP_ROWS, :time, : len(schema.features)]
    mixed = (rows + steps * len(schema.features) + features) % len(test.sequences)
    values = test.sequences[mixed, steps % schema.time_steps, features]
    mean = np.array(schema.mean)
    lengths = np.linspace(1, time, MADE_UP_ROWS).astype(np.int32) if schema.ragged else None
    return (mean + MADE_UP_SPREAD * (values - mean)).astype(np.float32), lengths


def probe_made_up(runtime: Runtime, data: Prepared, time: int, batch_size: int) -> list[list[float]] | None:
    """Logits of made-up sequences, for `verify` to compare with PyTorch's of the same; None if some are not finite."""
    logits = np.concatenate(list(batches(runtime, made_up(data, time), batch_size)))
    return logits.tolist() if np.isfinite(logits).all() else None


def execute(path: Path, data: Prepared, params: Params, file: Path) -> dict[str, Any]:
    """Run one file on the whole split, into a file of logits, and at the probed sizes of its dynamic axes.

    Returns:
        The record of the execution.

    Raises:
        StageError: The file cannot be opened, or its runtime fails on a batch.
    """
    runtime = open_runtime(path)
    interface = runtime.interface
    largest = min(params.batch_size, interface.largest_batch or params.batch_size)
    batch_size = 1 if runtime.batch_dependent else largest
    times = [
        time
        for time in sorted({data.schema.time_steps, *(params.probe_times if interface.dynamic_time else [])})
        if interface.largest_time is None or time <= interface.largest_time
    ]
    try:
        predict(runtime, data, batch_size, path.name, file)
        logits = np.load(file, mmap_mode="r")
        sizes = sorted({*params.probe_batches, interface.largest_batch or largest})
        probes = {str(size): probe_batch(runtime, data, logits, size) for size in sizes}
        unseen = {str(time): probe_made_up(runtime, data, time, batch_size) for time in times}
    except Exception as error:  # what a runtime raises has no common base
        raise StageError(f"{path}: {runtime.executor} failed: {one_line(error)}") from None
    return {
        "executor": runtime.executor,
        "executor_version": runtime.version,
        "platform": f"{platform.system()}-{platform.machine()}",
        "interface": interface.to_json(),
        "batch_dependent": runtime.batch_dependent,
        "batch_size": batch_size,
        "probes": probes,
        "made_up": unseen,
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
