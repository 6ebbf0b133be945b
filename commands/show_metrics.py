"""Print the figures of the last run: a line for every model file."""

import json
import sys
from pathlib import Path
from typing import Any

from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo
from tabulate import tabulate

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


def read(name: str) -> Figures:
    """The content of a metrics file."""
    content: Figures = json.loads(Path("metrics", f"{name}.json").read_bytes())
    return content


def left_behind() -> list[str]:
    """The stages whose inputs are not those that they wrote their figures from, as after a run that failed half-way."""
    try:
        with Repo() as repo:
            status = repo.status(targets=STAGES)
    except NotDvcRepoError:
        return []
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
    try:
        benchmark = read("benchmark")
        sources = [read("evaluate"), read("verify"), read("size"), benchmark["files"]]
    except FileNotFoundError as error:
        print(f"show_metrics: error: {error.filename}: no such file; `dvc repro` writes it", file=sys.stderr)
        sys.exit(1)
    evaluation, verification, *_ = sources
    rows = [
        line(f"{file_format} {precision}", *(source.get(file_format, {}).get(precision) for source in sources))
        for file_format in evaluation | verification
        for precision in sorted(evaluation.get(file_format, {}) | verification.get(file_format, {}))
    ]
    print(tabulate([COLUMNS, *rows], tablefmt="plain", disable_numparse=True, colalign=ALIGNMENT))
    print(f"latency: median of one sequence, one thread, {benchmark['machine']['cpu']}")
    if stages := left_behind():
        print(
            f"show_metrics: warning: the figures of {', '.join(stages)} are of an earlier run; `dvc repro` renews them",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
