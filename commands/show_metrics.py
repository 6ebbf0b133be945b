"""Print the figures of the last run: a line for every model file."""

import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "stages"))

from shared import end_in_one_line  # noqa: E402 - after the path to it

if __name__ == "__main__":
    end_in_one_line()

from shared.stage import StageError, one_line, read_json, run  # noqa: E402
from shared.text import printable  # noqa: E402

from dvc.exceptions import DvcException, NotDvcRepoError  # noqa: E402
from dvc.repo import Repo  # noqa: E402
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError  # noqa: E402
from tabulate import tabulate  # noqa: E402

STAGES = ("evaluate", "verify", "benchmark")  # whose figures the table has
COLUMNS = ("file", "executed by", "accuracy", "macro F1", "error", "tolerance", "size", "latency", "parity")
ALIGNMENT = ("left", "left", *["right"] * 6, "left")

Figures = dict[str, Any]


def line(
    name: str, figures: Figures | None, parity: Figures | None, size: Figures | None, timings: Figures | None
) -> tuple[str, ...]:
    """One row of the table.

    The error is relative to the standard deviation of PyTorch's logits; the latency is the median at batch 1 with one
    thread, empty for a file that was not timed here.
    """
    task = (f"{figures['accuracy']:.2%}", f"{figures['macro_f1']:.4f}") if figures else ("", "")
    threads = timings and (timings.get("one_thread") or timings.get("all_threads"))
    cost = (
        f"{size['bytes'] / 1e3:.1f} kB" if size else "",
        f"{threads['latency_ms']['p50'] * 1e3:.1f} µs" if threads else "",
    )
    if parity is None:
        return (name, "pytorch", *task, "", "", *cost, "the reference")
    verdict = "verified" if parity["passed"] else "; ".join(parity["problems"])
    if "relative_error" not in parity:
        return (name, parity.get("executor", ""), *task, "", "", *cost, verdict)
    error = (f"{parity['relative_error']:.1e}", f"{parity['tolerance']:.1e}")
    return (name, parity["executor"], *task, *error, *cost, verdict)


class Used(BaseModel):
    """The figures of a file that the table is made of; there may be others beside them."""

    model_config = ConfigDict(extra="allow", strict=True)


class Task(Used):
    """In metrics/evaluate.json."""

    accuracy: float
    macro_f1: float


class Parity(Used):
    """In metrics/verify.json; of a file that was not executed, there are problems alone."""

    passed: bool
    problems: list[str]
    executor: str = ""
    relative_error: float = 0
    tolerance: float = 0


class Size(Used):
    """In metrics/size.json."""

    bytes: int


class Latency(Used):
    """Of single calls, in milliseconds."""

    p50: float


class Threads(Used):
    """With some number of threads."""

    latency_ms: Latency


class Timings(Used):
    """In metrics/benchmark.json."""

    one_thread: Threads | None = None
    all_threads: Threads | None = None


class Machine(Used):
    """What the timings are of."""

    cpu: str


class Benchmark(Used):
    """All of metrics/benchmark.json."""

    machine: Machine
    files: dict[str, dict[str, Timings]]


def read(name: str, form: Any) -> Figures:
    """The content of a metrics file, which has a form.

    Raises:
        StageError: It is missing, or a figure that is needed is missing or no such figure.
    """
    path = Path("metrics", f"{name}.json")
    if not path.exists():
        raise StageError(f"{path}: no such file; `dvc repro` writes it")
    content = read_json(path)
    try:
        TypeAdapter(form).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = "is missing" if first["type"] == "missing" else f"= {first['input']!r:.80}: {first['msg'].lower()}"
        raise StageError(f"{path}: {key} {message}; `dvc repro` writes it anew") from None
    return content


def left_behind() -> list[str]:
    """The stages whose inputs are not those that they wrote their figures from, as after a run that failed half-way."""
    try:
        with Repo() as repo:
            status = repo.status(targets=STAGES)
    except NotDvcRepoError:
        return []
    except DvcException as error:  # such as for a dvc.lock that is cut off
        raise StageError(f"DVC cannot say what the figures are of: {one_line(error)}") from None
    changed = {
        stage: {kind: set(files.values()) for part in parts if isinstance(part, dict) for kind, files in part.items()}
        for stage, parts in status.items()
    }
    return [
        stage
        for stage in STAGES
        # One that failed after it had written has new outputs.
        if "modified" in changed.get(stage, {}).get("changed deps", ()) and "changed outs" not in changed[stage]
    ]


def main() -> None:
    """Read the metrics and print the table."""
    benchmark = read("benchmark", Benchmark)
    evaluation, verification, sizes = (
        read(name, dict[str, dict[str, form]])  # type: ignore[valid-type]
        for name, form in (("evaluate", Task), ("verify", Parity), ("size", Size))
    )
    sources = [evaluation, verification, sizes, benchmark["files"]]
    rows = [
        line(f"{file_format} {precision}", *(source.get(file_format, {}).get(precision) for source in sources))
        for file_format in evaluation | verification
        for precision in sorted(evaluation.get(file_format, {}) | verification.get(file_format, {}))
    ]
    lines = [tuple(map(printable, row)) for row in (COLUMNS, *rows)]
    print(tabulate(lines, tablefmt="plain", disable_numparse=True, colalign=ALIGNMENT))
    print(f"latency: median of one sequence, one thread, {printable(benchmark['machine']['cpu'])}")
    if stages := left_behind():
        print(
            f"show_metrics: warning: the figures of {', '.join(stages)} are of an earlier run; `dvc repro` renews them",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run(main)
