"""Measure what each file costs: prepared data and all models in; sizes and timings out.

`size` holds what the files alone decide, equal on every machine. `timings` holds what this machine took, which is
another figure every time, and the ops of each file in words; `dvc repro --force --single-item benchmark` measures anew.
Beside the exported files stand PyTorch's eager mode and `stock`: the graph of the ONNX file as `torch.onnx.export`
leaves it. Core ML packages are timed on macOS alone, never on our evaluator.

- `load_ms`: from the path to a model that can be called, in a new process whose runtime is imported and whose file is
  in the page cache; the median of some processes.
- `peak_memory_mb`: by how much the largest resident memory of that process grew, above that of importing the runtime,
  while it loaded the file and ran a batch of 1 and one of 64.
- `one_thread` and `all_threads`: with one thread for each operation, and with as many as the machine has cores.
  Core ML takes no such number, and is found under `all_threads` alone.
- `latency_ms`: percentiles of single calls at batch 1; `io_binding_latency_ms`: the same with inputs and outputs in
  bound memory, the copy of the input included. `p50_low` to `p50_high` is the 95 % interval of the median, as far as
  the rounds of this run on this machine can tell.
- `batch_64`, `best`: sequences a second at batch 64 and at `best_batch`, by the median call.

All files take turns in each round, one number of threads after the other, in a process of their own: one that crashes
or hangs there is left out, with the reason. Nothing else computes meanwhile: the files are read before, while processes
import their runtimes, and the threads of the file before have gone to sleep. PyTorch computes with the kernels that
`shared` pins, ONNX Runtime with those that it chooses.
"""

import os
import platform
import re
import subprocess
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from shared.data.sequences import Prepared, SplitArrays
from shared.execution.cold_start import TIMEOUT_SECONDS, ColdStart, ColdStarts
from shared.execution.isolation import Apart, Limits, MachineError, Task, call_apart, still_working
from shared.execution.predictions import nest
from shared.execution.runners import Batch, CoreMLRunner, ExecuTorchRunner, OnnxRunner, Runner, open_runner, timing_of
from shared.execution.runtimes import import_runtimes
from shared.execution.timing import Call, Rounds, alternate, latency_ms, typical
from shared.files.accelerators import accelerators
from shared.files.artifacts import discard_unlisted, find_artifacts, is_left_out, why_left_out
from shared.files.formats import FORMATS, REFERENCE, folders
from shared.files.inspection import FileFacts, inspect_file
from shared.files.integer_sums import integer_sums
from shared.files.requirements import requirements_of
from shared.kit.params import Count, Seed, StageParams, read_params
from shared.kit.stage import StageError, one_line, parse_args, rounded, run, write_metrics

import numpy as np
from pydantic import Field

Key = tuple[str, str]
"""Format and variant of a file."""
Name = str | int
"""What is timed: a latency by its name in the figures, a throughput by its size of batch."""

STOCK: Key = ("onnx", "stock")
STANDARD_BATCH = 64


class Params(StageParams):
    """Section `benchmark`."""

    rounds: Count
    turn_seconds: float = Field(gt=0, le=10)
    batch_sizes: list[Count] = Field(min_length=1)
    cold_starts: Count
    seed: Seed


def read_facts(files: dict[Key, Path]) -> list[dict[str, Any] | None]:
    """What each file is: its `size`, its `ops` in words, its `integer_sums`; None of a damaged one."""
    found: list[dict[str, Any] | None] = []
    for path in files.values():
        still_working()
        try:
            facts = inspect_file(path)
            size = size_of(facts) | {"requires": requirements_of(path)}
            found.append({"size": size, "ops": ops_in_words(facts), "integer_sums": integer_sums(path)})
        except StageError:
            found.append(None)
    return found


def all_facts(files: dict[Key, Path]) -> dict[Key, dict[str, Any]]:
    """What each readable file is, see `read_facts`.

    Those without torch in a process of their own: where torch is not, what reads Core ML packages is imported sooner.
    """
    checkpoints = {key: path for key, path in files.items() if key[0] == REFERENCE[0]}
    exported = without(files, checkpoints)
    with Apart(Task(read_facts, (exported,), "the files"), Limits(TIMEOUT_SECONDS)) as reader:
        found = read_facts(checkpoints) + reader.wait_for_result()
    return {key: facts for key, facts in zip(checkpoints | exported, found, strict=True) if facts}


def size_of(facts: FileFacts) -> dict[str, Any]:
    """How large a file is, and what of it are weights."""
    return {
        "bytes": facts.bytes,
        "compressed_bytes": facts.compressed_bytes,
        "weights": facts.weights,
        "weight_bytes": facts.weight_bytes,
        "compressed_share": rounded(facts.compressed_share),
        "nodes": sum(facts.ops.values()),
    }


def sizes(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The figures of a file that need no run: its size, what it needs, how large its integer sums can become.

    Of an ONNX file also whether accelerators would help it.

    Args:
        path: Of the file.
        facts: See `read_facts`.
    """
    return {
        **facts["size"],
        **(helping_accelerators(path) if path.suffix == ".onnx" else {}),
        **({"integer_sums": facts["integer_sums"]} if facts["integer_sums"] else {}),
    }


def helping_accelerators(path: Path) -> dict[str, Any]:
    """Whether accelerators would help an ONNX file; nothing of one that ONNX Runtime refuses or crashes on."""
    try:
        return {"accelerators": call_apart(accelerators, path, what=path, limits=Limits(TIMEOUT_SECONDS))}
    except MachineError:
        raise
    except StageError:
        return {}


def ops_in_words(facts: FileFacts) -> str:
    """How often each op occurs, the most frequent first: no metric, since DVC would compare the words."""
    ops = sorted(facts.ops.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ops)


def first_rows(split: SplitArrays, count: int) -> Batch:
    """The first rows of a split, repeated if there are too few."""
    rows = np.arange(count) % len(split.sequences)
    return Batch(split.sequences[rows], None if split.lengths is None else split.lengths[rows])


def first_uses(
    files: dict[Key, Path], starts: list[ColdStart | StageError]
) -> tuple[dict[Key, dict[str, float]], dict[Key, str]]:
    """Load time and peak memory of every file: medians.

    Args:
        files: What was started.
        starts: What each took, in their order, and again as often as they were started.

    Returns:
        The figures of each file that can be loaded and run, and the reason of each that cannot.
    """
    measured, failed = {}, {}
    for index, key in enumerate(files):
        found = starts[index :: len(files)]
        good = [start for start in found if isinstance(start, ColdStart)]
        if len(good) < len(found):
            failed[key] = next(str(start) for start in found if isinstance(start, StageError))
            continue
        measured[key] = {
            "load_ms": rounded(median(start.load_seconds for start in good) * 1e3, 3),
            "peak_memory_mb": rounded(median(start.peak_memory for start in good) / 1e6, 3),
        }
    return measured, failed


def time_files(files: dict[Key, Path], split: SplitArrays, threads: int, params: Params) -> list[dict[str, Any]]:
    """Latency and throughput of every file with that many threads, in the order of the files.

    Raises:
        StageError: A file fails on a batch that is larger than those it was tried with.
    """
    calls = {
        (key, name): call
        for key, path in files.items()
        for name, call in tried_calls(path, split, threads, params).items()
    }
    seconds = alternate(
        calls,
        params.rounds,
        params.turn_seconds,
        params.seed,
        group=lambda key: key[0],
        pause=threads > 1,
    )
    return [figures({name: rounds for (of, name), rounds in seconds.items() if of == key}) for key in files]


def tried_calls(path: Path, split: SplitArrays, threads: int, params: Params) -> dict[Name, Call]:
    """What is timed of a file, each called once.

    Raises:
        StageError: It fails.
    """
    calls = calls_of(open_runner(path, threads), split, params.batch_sizes)
    for name, call in calls.items():
        still_working()
        try:
            call()
        except Exception as error:  # what a runtime raises has no common base
            what = f"batch {name}" if isinstance(name, int) else name
            raise StageError(f"{path}: {timing_of(path).executor} failed at {what}: {one_line(error)}") from None
    return calls


def time_apart(
    files: dict[Key, Path], split: SplitArrays, threads: int, params: Params
) -> tuple[dict[Key, dict[str, Any]], dict[Key, str]]:
    """Time all files in one process of their own; if a file ends that, say which one, and time the others.

    Returns:
        The figures of each file, and the reason of each that has none.
    """
    used = slice(0, max(STANDARD_BATCH, *params.batch_sizes))
    lengths = None if split.lengths is None else split.lengths[used]
    rows = SplitArrays(split.sequences[used], split.labels[used], lengths)
    limits, failed = Limits(TIMEOUT_SECONDS), {}
    try:
        timed = call_apart(time_files, files, rows, threads, params, what="the timing", limits=limits)
    except MachineError:
        raise
    except StageError:
        for key, path in files.items():
            try:
                call_apart(try_alone, path, rows, threads, params, what=path, limits=limits)
            except MachineError:
                raise
            except StageError as error:
                failed[key] = str(error)
        if not failed:
            raise
        files = {key: path for key, path in files.items() if key not in failed}
        timed = call_apart(time_files, files, rows, threads, params, what="the timing", limits=limits)
    return dict(zip(files, timed, strict=True)), failed


def try_alone(path: Path, split: SplitArrays, threads: int, params: Params) -> None:
    """As `tried_calls`, for a process that nothing comes back from but the failure."""
    tried_calls(path, split, threads, params)


def calls_of(runner: Runner, split: SplitArrays, batch_sizes: list[int]) -> dict[Name, Call]:
    """What is timed of a file: one sequence, one with I/O binding, and every size of batch that it accepts."""
    one = first_rows(split, 1)
    calls: dict[Name, Call] = {"latency_ms": runner.call(one)}
    if isinstance(runner, OnnxRunner):
        calls["io_binding_latency_ms"] = runner.bound_call(one)
    largest = runner.largest_batch if isinstance(runner, CoreMLRunner | ExecuTorchRunner) else None
    for size in sorted({STANDARD_BATCH, *batch_sizes}):
        if largest is None or size <= largest:
            calls[size] = runner.call(first_rows(split, size))
    return calls


def figures(seconds: dict[Name, Rounds]) -> dict[str, Any]:
    """Percentiles of the latencies, and sequences a second at batch 64 and at the best size."""
    latencies = {name: latency_ms(rounds) for name, rounds in seconds.items() if isinstance(name, str)}
    throughput = {
        size: int(rounded(size / typical(rounds), 3)) for size, rounds in seconds.items() if isinstance(size, int)
    }
    best = max(throughput, key=lambda size: throughput[size])
    return {
        **latencies,
        f"batch_{STANDARD_BATCH}": throughput.get(STANDARD_BATCH),
        "best": throughput[best],
        "best_batch": best,
    }


def machine() -> dict[str, Any]:
    """What the timings depend on beside the files: hardware and versions; `memory_gb` is in units of 10^9 bytes."""
    libraries = ("torch", "onnxruntime", "coremltools", "numpy")
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": rounded(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 3),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
    }


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    names = re.findall(r"^(?:model name|Model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    return str(names[0]) if names else platform.machine()


def time_all(
    files: dict[Key, Path], split: SplitArrays, params: Params
) -> tuple[dict[Key, dict[str, Any]], dict[Key, str]]:
    """Latency and throughput of every file, with one thread and with all.

    Returns:
        The figures of each file, and the reason of each that has none.
    """
    with_threads = {key: path for key, path in files.items() if timing_of(path).takes_threads}
    one_thread, crashed = time_apart(with_threads, split, 1, params)
    all_threads, others = time_apart(without(files, crashed), split, os.cpu_count() or 1, params)
    failed = crashed | others
    return {
        key: {"one_thread": one_thread.get(key), "all_threads": all_threads[key]} for key in without(files, failed)
    }, failed


def without(files: dict[Key, Path], others: Collection[Key]) -> dict[Key, Path]:
    """The files but those."""
    return {key: path for key, path in files.items() if key not in others}


def reason_of(folder: Path) -> str | None:
    """Why a format has no file in its folder; None if it has one."""
    return next((reason for path in sorted(folder.iterdir()) if (reason := why_left_out(path))), None)


def main() -> None:
    """Read the arguments and the parameters; measure every file; write sizes and timings."""
    args = parse_args(
        __doc__,
        inputs={"prepared": "the folder of prepared arrays", **folders(), "stock": "what ONNX files are compared with"},
        outputs={"size": "what each file is (JSON)", "timings": "what each file took on this machine (JSON)"},
    )
    params = read_params("benchmark", Params)
    split = Prepared(args.prepared).split("test")
    for file_format in FORMATS:
        discard_unlisted(getattr(args, file_format))
    files: dict[Key, Path] = {
        (file_format, variant): path
        for file_format in FORMATS
        for variant, path in find_artifacts(getattr(args, file_format)).items()
    }
    if REFERENCE not in files:
        raise StageError(f"{args.pytorch}: no checkpoint in this folder")
    stock: dict[Key, Path] = {} if is_left_out(args.stock) else {STOCK: args.stock}
    failed = {key: reason for key, path in files.items() if (reason := timing_of(path).not_here)}
    runnable = without(files | stock, failed)
    batches = [first_rows(split, size) for size in (1, STANDARD_BATCH)]
    with ColdStarts(list(runnable.values()) * params.cold_starts, batches) as cold_starts:
        facts = all_facts(files)
        measured = {key: sizes(files[key], of) for key, of in facts.items()}
        import_runtimes(list(runnable.values()))  # once for the processes that time them
        first, broken = first_uses(runnable, cold_starts.measure())
    timed, crashed = time_all(without(runnable, broken), split, params)
    failed |= broken | crashed
    results = {
        key: {"executor": None, "reason": failed[key]}
        if key in failed
        else {"executor": timing_of(path).executor, **first[key], **timed[key]}
        for key, path in (files | stock).items()
    }
    for key, path in stock.items():
        size = inspect_file(path)
        results[key] |= {"bytes": size.bytes, "compressed_bytes": size.compressed_bytes}
    write_metrics(args.size, nest(measured))
    left_out = {name: reason for name in FORMATS if (reason := reason_of(getattr(args, name)))}
    ops = nest({key: of["ops"] for key, of in facts.items()})
    timings = {"machine": machine(), "left_out": left_out, "ops": ops, "files": nest(results)}
    write_metrics(args.timings, timings)


if __name__ == "__main__":
    run(main)
