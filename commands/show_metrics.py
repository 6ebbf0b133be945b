"""Print the figures of the last run: a line for every model file."""

import argparse
import sys
from pathlib import Path
from typing import Any, Literal

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "stages"))

from shared.kit import end_in_one_line  # noqa: E402 - after the path to it

if __name__ == "__main__":
    end_in_one_line()

from shared.kit.stage import StageError, one_line, read_json, run  # noqa: E402
from shared.kit.text import printable  # noqa: E402

from dvc.exceptions import DvcException, NotDvcRepoError  # noqa: E402
from dvc.repo import Repo  # noqa: E402
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError  # noqa: E402
from tabulate import tabulate  # noqa: E402

STAGES = ("evaluate", "verify", "benchmark")  # whose figures the table has
COLUMNS = ("file", "executed by", "accuracy", "change", "macro F1", "error", "size", "latency", "verdict")
ALIGNMENT = ("left", "left", *["right"] * 6, "left")
REFERENCE = "pytorch fp32"

Figures = dict[str, Any]


def line(
    name: str, figures: Figures | None, parity: Figures | None, size: Figures | None, timings: Figures | None
) -> tuple[str, ...]:
    """One row of the table; empty where there is no figure.

    The change is in points of accuracy against PyTorch; the error is relative to the standard deviation of PyTorch's
    logits; the latency is the median at batch 1 with one thread.
    """
    parity = parity or {}
    loss, error = parity.get("accuracy_loss"), parity.get("relative_error")
    threads = timings and (timings.get("one_thread") or timings.get("all_threads"))
    return (
        name,
        "pytorch" if name == REFERENCE else ", ".join(executors(parity)),
        f"{figures['accuracy']:.2%}" if figures else "",
        "" if loss is None else f"{-100 * loss + 0:+.2f}",
        f"{figures['macro_f1']:.4f}" if figures else "",
        "" if error is None else f"{error:.1e}",
        f"{size['bytes'] / 1e3:.1f} kB" if size else "",
        f"{threads['latency_ms']['p50'] * 1e3:.1f} µs" if threads else "",
        verdict(name, parity),
    )


def doubt(timings: dict[str, dict[str, Figures]]) -> str:
    """How far the 95 % intervals of the latencies reach, relative to these; empty if there is none."""
    threads = [one.get("one_thread") or one.get("all_threads") for files in timings.values() for one in files.values()]
    latencies = [each["latency_ms"] for each in threads if each]
    if not latencies:
        return ""
    below = max(1 - each["p50_low"] / each["p50"] for each in latencies)
    above = max(each["p50_high"] / each["p50"] - 1 for each in latencies)
    return f"; 95% intervals: {below:.0%} below it to {above:.0%} above, at most"


def executors(parity: Figures) -> list[str]:
    """Who executed a file: its format's own runtime first."""
    own = [parity["executor"]] if parity.get("executor") else []
    return own + [name for name, found in parity.get("executors", {}).items() if "executor_version" in found]


def verdict(name: str, parity: Figures) -> str:
    """What `verify` found, in words."""
    if parity.get("problems"):
        return f"wrong: {'; '.join(parity['problems'])}"
    if name == REFERENCE:
        return "the reference"
    found = f"too lossy: {'; '.join(parity['losses'])}" if parity.get("losses") else str(parity.get("outcome", ""))
    others = parity.get("executors", {}).items()
    failed = [f"; wrong in {name}: {'; '.join(other['problems'])}" for name, other in others if other.get("problems")]
    return "".join([found, *failed])


def left_out(verification: dict[str, dict[str, Figures]]) -> list[str]:
    """What was not executed a second time, by which executor, and why: a line each."""
    found: dict[tuple[str, str], list[str]] = {}
    for file_format, variants in verification.items():
        for variant, parity in variants.items():
            for name, other in parity.get("executors", {}).items():
                if other.get("left_out"):
                    found.setdefault((name, other["left_out"]), []).append(f"{file_format} {variant}")
    return [f"left out by {name}: {', '.join(files)}: {reason}" for (name, reason), files in found.items()]


class Used(BaseModel):
    """The figures of a file that the table is made of; there may be others beside them."""

    model_config = ConfigDict(extra="allow", strict=True)


class Task(Used):
    """In metrics/evaluate.json."""

    accuracy: float
    macro_f1: float


class Elsewhere(Used):
    """In metrics/verify.json: what another executor made of a file, or why it left it out."""

    executor_version: str = ""
    problems: list[str] = Field(default_factory=list)
    left_out: str = ""


class Parity(Used):
    """In metrics/verify.json; of a file that was not executed, there are problems alone."""

    outcome: Literal["wrong", "too_lossy", "fit"]
    problems: list[str]
    losses: list[str]
    executor: str = ""
    executors: dict[str, Elsewhere] = Field(default_factory=dict)
    relative_error: float = 0
    accuracy_loss: float = 0


class Size(Used):
    """In metrics/size.json."""

    bytes: int = Field(ge=0, lt=2**63)


class Latency(Used):
    """Of single calls, in milliseconds."""

    p50: float = Field(gt=0)
    p50_low: float
    p50_high: float


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
    """The stages whose figures are of an earlier run: something that they are made from, directly or not, has changed.

    As after a run that failed half-way, or a parameter that was changed since.
    """
    try:
        with Repo() as repo:
            found = {stage: repo.status(targets=[stage], with_deps=True) for stage in STAGES}
    except NotDvcRepoError:
        return []
    except DvcException as error:  # such as for a dvc.lock that is cut off
        raise StageError(f"DVC cannot say what the figures are of: {one_line(error)}") from None
    return [stage for stage, status in found.items() if any(map(has_new_inputs, status.values()))]


def has_new_inputs(changes: list[Any]) -> bool:
    """Whether DVC would run a stage again for more than an output that differs: another input, parameter or command."""
    parts = (part for change in changes for part in (change if isinstance(change, dict) else [change]))
    return any(part != "changed outs" for part in parts)


def main() -> None:
    """Read the metrics and print the table."""
    benchmark = read("benchmark", Benchmark)
    evaluation, verification, sizes = (
        read(name, dict[str, dict[str, form]])  # type: ignore[valid-type]
        for name, form in (("evaluate", Task), ("verify", Parity), ("size", Size))
    )
    timings = benchmark["files"]
    names = {
        file_format: sorted(evaluation.get(file_format, {}) | verification.get(file_format, {}))
        for file_format in evaluation | verification
    }
    stale = left_behind()
    found = [("evaluate", evaluation), ("verify", verification), ("benchmark", sizes), ("benchmark", timings)]
    figures = [{} if stage in stale else content for stage, content in found]
    rows = [
        line(f"{file_format} {variant}", *(source.get(file_format, {}).get(variant) for source in figures))
        for file_format, variants in names.items()
        for variant in variants
    ]
    lines = [tuple(map(printable, row)) for row in (COLUMNS, *rows)]
    print(tabulate(lines, tablefmt="plain", disable_numparse=True, colalign=ALIGNMENT))
    if "verify" not in stale:
        print("".join(f"{printable(each)}\n" for each in left_out(verification)), end="")
    print(f"latency: median of one sequence, one thread, {printable(benchmark['machine']['cpu'])}{doubt(figures[-1])}")
    if stale:
        print(
            f"show_metrics: warning: left out what {', '.join(stale)} found in an earlier run; `dvc repro` renews it",
            file=sys.stderr,
        )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    run(main)
