"""Run every exported file of one format on the test split: a folder of models in; logits and execution records out.

For each file, `<precision>.npy` holds its logits (rows, classes) in float32, and `<precision>.json` who computed them,
what the file declares of itself, and how it behaved at other batch sizes. Of a file that cannot be executed there is
only the reason, under `failure`: `verify` rejects it after it has judged all others.
"""

import platform
from pathlib import Path
from typing import Any

from shared.artifacts import find_artifacts
from shared.params import Count, StageParams, read_params
from shared.runtimes import Floats, Runtime, open_runtime
from shared.sequences import Prepared
from shared.stage import StageError, one_line, parse_args, replacing, rounded, run, write_json

import numpy as np
from pydantic import Field
from tqdm import tqdm

MADE_UP_ROWS = 64
MADE_UP_SPREAD = 3


class Params(StageParams):
    """Section `predict`."""

    batch_size: Count
    probe_batches: list[Count] = Field(min_length=1)


def predict(runtime: Runtime, sequences: Floats, batch_size: int, name: str) -> Floats:
    """Logits (rows, classes) of all sequences, batch by batch."""
    with tqdm(total=len(sequences), desc=name, unit="row", disable=None) as progress:
        batches = []
        for start in range(0, len(sequences), batch_size):
            batch = np.ascontiguousarray(sequences[start : start + batch_size])
            batches.append(runtime.logits(batch))
            progress.update(len(batch))
    return np.concatenate(batches)


def made_up(sequences: Floats) -> Floats:
    """Sequences unlike any of the data: each value is taken from another row, and put further from its feature's mean.

    What the data hide shows here: a part that only matters outside their range, or where values that always go together
    do not.
    """
    rows, time, features = np.ogrid[:MADE_UP_ROWS, : sequences.shape[1], : sequences.shape[2]]
    values = sequences[(rows + time * sequences.shape[2] + features) % len(sequences), time, features]
    mean = values.mean(axis=(0, 1), dtype=np.float64)
    wider: Floats = (mean + MADE_UP_SPREAD * (values - mean)).astype(np.float32)
    return wider


def probe(runtime: Runtime, sequences: Floats, logits: Floats, batch_size: int) -> dict[str, Any]:
    """Run the first `batch_size` rows alone: an export that baked a batch size into its graph differs or fails here."""
    rows = np.arange(batch_size) % len(sequences)  # repeats a short split
    expected = logits[rows]
    result = runtime.logits(sequences[rows])
    difference = np.abs(result - expected).max() if result.shape == expected.shape else np.nan
    return {
        "shape": list(result.shape),
        "max_absolute_difference": rounded(float(difference), 3) if np.isfinite(difference) else None,
    }


def execute(path: Path, sequences: Floats, params: Params) -> tuple[Floats, dict[str, Any]]:
    """Run one file on the whole split and at the probed batch sizes.

    Raises:
        StageError: The file cannot be opened, or its runtime fails on a batch.
    """
    runtime = open_runtime(path)
    limit = runtime.interface.largest_batch
    largest = min(params.batch_size, limit or params.batch_size)
    try:
        logits = predict(runtime, sequences, largest, path.name)
        unseen = predict(runtime, made_up(sequences), largest, path.name)
        sizes = sorted({*params.probe_batches, limit or largest})
        probes = {str(size): probe(runtime, sequences, logits, size) for size in sizes}
    except Exception as error:  # what a runtime raises has no common base
        raise StageError(f"{path}: {runtime.executor} failed: {one_line(error)}") from None
    return logits, {
        "executor": runtime.executor,
        "executor_version": runtime.version,
        "platform": f"{platform.system()}-{platform.machine()}",
        "interface": runtime.interface.to_json(),
        "probes": probes,
        "made_up": unseen.tolist() if np.isfinite(unseen).all() else None,
    }


def main() -> None:
    """Read the arguments and the parameters; run every file."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays", "models": "the folder of one format's files"},
        outputs={"predictions": "the folder of their logits"},
    )
    params = read_params("predict", Params)
    sequences = Prepared(args.prepared).split("test").sequences
    artifacts = find_artifacts(args.models)
    if not artifacts:
        raise StageError(f"{args.models}: no exported file in this folder")
    with replacing(args.predictions) as folder:
        folder.mkdir()
        for precision, path in artifacts.items():
            try:
                logits, record = execute(path, sequences, params)
            except StageError as error:
                record = {"failure": str(error)}
            else:
                np.save(folder / f"{precision}.npy", logits.astype(np.float32))
            write_json(folder / f"{precision}.json", record)


if __name__ == "__main__":
    run(main)
