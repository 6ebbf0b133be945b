"""Say which file to ship, and show the run: all metrics in; one self-contained page, a summary and pictures out.

The rule: of each platform's files that were executed and verified and that lose no more accuracy against PyTorch than
`report.allowed_accuracy_loss`, the smallest on disk is recommended; of equally small ones the more accurate.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.data.sequences import Prepared
from shared.files.artifacts import REFERENCE, SUFFIXES
from shared.page.formatting import (
    escape_markdown,
    flatten,
    format_change,
    format_figure,
    format_points,
    format_power,
    format_size,
    format_tolerance,
)
from shared.page.pictures import (
    FORMAT_NAMES,
    STYLE,
    Point,
    draw_confusion,
    draw_loss,
    draw_parity,
    draw_size_accuracy,
    to_png,
    to_svg,
)
from shared.params import StageParams, read_params, read_sections
from shared.stage import StageError, one_line, parse_args, read_json, rounded, run, write_bytes

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from pydantic import Field

PAGE_TEMPLATE = Path(__file__).parent / "shared" / "page" / "report.html.jinja"
SUMMARY_TEMPLATE = Path(__file__).parent / "shared" / "page" / "report.md.jinja"
PLATFORMS = {"onnx": ("ONNX Runtime", "Android, Linux, Windows, browsers"), "coreml": ("Core ML", "iOS, macOS")}
MACHINE_NAMES = {
    "cpu": "CPU", "cores": "Cores", "memory_gb": "Memory", "system": "System", "python": "Python", "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime", "coremltools": "coremltools", "numpy": "NumPy",
}  # fmt: skip
FLIPS_SHOWN = 2  # of each file: the clearest
MOST_CLASSES_IN_MATRIX = 25


class Params(StageParams):
    """Section `report`."""

    allowed_accuracy_loss: float = Field(ge=0, le=1)


@dataclass(frozen=True)
class Candidate:
    """A model file and all that the metrics say of it.

    Attributes:
        format: `pytorch`, `onnx` or `coreml`.
        variant: Such as `fp16`.
        task: What it is worth on the test split (evaluate.json); None if it was not executed.
        parity: How far it is from PyTorch (verify.json); None for PyTorch itself, or if it was not verified.
        size: Its facts (size.json); None if nobody measured it.
        speed: Its timings (benchmark.json); None if nobody measured it.
        accuracy_loss: PyTorch's accuracy minus its own; None if it was not executed.
        objection: Why it cannot be recommended, as the rest of a sentence; None if it can.
    """

    format: str
    variant: str
    task: dict[str, Any] | None
    parity: dict[str, Any] | None
    size: dict[str, Any] | None
    speed: dict[str, Any] | None
    accuracy_loss: float | None
    objection: str | None

    @property
    def file(self) -> str:
        """Its name in the format's folder."""
        stem = "classifier" if (self.format, self.variant) == REFERENCE else f"classifier-{self.variant}"
        return f"{stem}{SUFFIXES[self.format]}"

    @property
    def bytes(self) -> float:
        """Its size on disk; infinite if nobody measured it."""
        return self.size["bytes"] if self.size else float("inf")

    @property
    def latency(self) -> float | None:
        """Median milliseconds of one sequence, on one thread where a runtime lets one choose; None if not timed."""
        timings = self.speed and (self.speed.get("one_thread") or self.speed.get("all_threads"))
        return timings["latency_ms"]["p50"] if timings else None

    @property
    def by_reference(self) -> bool:
        """Whether our own evaluator executed it, and not Apple's runtime."""
        return bool(self.parity and self.parity.get("executor") == "reference")

    @property
    def one_by_one(self) -> bool:
        """Whether it was executed at batch 1, because its result depends on what else is in the batch."""
        return bool(self.parity and self.parity.get("batch_dependent"))

    @property
    def problems(self) -> list[str]:
        """What `verify` found wrong with it."""
        if (self.format, self.variant) == REFERENCE:
            return []
        return self.parity["problems"] if self.parity else ["verified: no figures were found"]


@dataclass(frozen=True)
class Choice:
    """What to ship on the platforms of one format.

    Attributes:
        runtime: What runs the format.
        systems: Where.
        best: The recommended file; None if no file qualifies.
        refused: The files below it in size, or all if there is no best, with what speaks against them.
        larger: The files that qualify too.
    """

    runtime: str
    systems: str
    best: Candidate | None
    refused: list[Candidate]
    larger: list[Candidate]


def object_to(
    task: dict[str, Any] | None, parity: dict[str, Any] | None, size: dict[str, Any] | None, allowed: float, loss: float
) -> str | None:
    """Why a file cannot be recommended, as the rest of a sentence about it; None if it can."""
    if parity is None:
        return "was not verified"
    if not parity["passed"]:
        return f"failed verification ({'; '.join(parity['problems'])})"
    if task is None:
        return "was not executed"
    if size is None:
        return "was not measured: its size is not known"
    if loss > allowed:
        return f"loses {format_points(loss)} points of accuracy; {format_points(allowed)} are allowed"
    return None


def collect(
    evaluation: dict[str, Any], verification: dict[str, Any], sizes: dict[str, Any], speeds: dict[str, Any],
    params: Params,
) -> list[Candidate]:  # fmt: skip
    """Every file that any of the metrics names, PyTorch first, and in each format the largest first.

    Raises:
        StageError: PyTorch's own accuracy is missing, or a format is unknown.
    """
    try:
        reference = evaluation[REFERENCE[0]][REFERENCE[1]]["accuracy"]
    except KeyError:
        raise StageError("PyTorch's accuracy is missing: nothing to judge a loss by; run `dvc repro`") from None
    names = {
        (file_format, variant): None
        for metrics in (evaluation, verification, sizes)
        for file_format, variants in metrics.items()
        for variant in variants
    }
    unknown = sorted({file_format for file_format, _ in names} - set(SUFFIXES))
    if unknown:
        raise StageError(f"the metrics name the unknown format {unknown[0]!r}; known: {', '.join(SUFFIXES)}")
    candidates = []
    for file_format, variant in names:
        task, parity, size, speed = (
            metrics.get(file_format, {}).get(variant) for metrics in (evaluation, verification, sizes, speeds)
        )
        # Both are rounded figures: so is their difference, lest 0.9699 - 0.9649 be more than 0.005.
        loss = round(reference - task["accuracy"], 6) if task else None
        objection = object_to(task, parity, size, params.allowed_accuracy_loss, loss or 0.0)
        candidates.append(Candidate(file_format, variant, task, parity, size, speed, loss, objection))
    order = list(SUFFIXES)
    return sorted(candidates, key=lambda file: (order.index(file.format), -file.bytes, file.variant))


def choose(candidates: list[Candidate], file_format: str) -> Choice:
    """Apply the rule to one format."""
    files = [file for file in candidates if file.format == file_format]
    fit = [file for file in files if file.objection is None]
    fit.sort(key=lambda file: (file.bytes, file.accuracy_loss, file.variant))
    best = fit[0] if fit else None
    refused = [file for file in reversed(files) if file.objection and (best is None or file.bytes <= best.bytes)]
    return Choice(*PLATFORMS[file_format], best, refused, fit[1:])


def format_executor(file: Candidate) -> str:
    """Who executed a file, in which version."""
    if (file.format, file.variant) == REFERENCE:
        return "PyTorch"
    if not file.parity or not file.parity.get("executor"):
        return "nobody"
    executor, version = file.parity["executor"], file.parity["executor_version"]
    if executor == "reference":
        return "reference evaluator"
    return {"onnxruntime": "ONNX Runtime", "coreml": "Core ML, macOS"}[executor] + f" {version}"


def verdict(file: Candidate, best: list[Candidate]) -> tuple[str, str]:
    """How the page marks a file, and in which words."""
    if (file.format, file.variant) == REFERENCE:
        return "soft", "the reference"
    if file in best:
        return "good", "★ recommended"
    if file.problems:
        check = file.problems[0].partition(":")[0]
        return "bad", "✗ not executed" if check == "executed" else f"✗ failed: {check}"
    if file.objection:
        return "warn", "loses too much" if file.task and file.size else "not measured"
    return "good", "✓ verified"


def executions(candidates: list[Candidate]) -> list[dict[str, Any]]:
    """Who executed which files, and on what kind of machine."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in candidates:
        if file.parity and file.parity.get("executor"):
            found.setdefault((format_executor(file), file.parity["platform"]), []).append(file.file)
    return [
        {"executor": executor, "platform": platform, "files": files} for (executor, platform), files in found.items()
    ]


def confusion_rows(confusion: pd.DataFrame, classes: list[str]) -> list[dict[str, Any]]:
    """The confusion matrix, a row for each actual class, with the share of its rows in each cell."""
    counts = confusion.set_index(["actual", "predicted"])["rows"].to_dict()
    rows = []
    for actual in classes:
        cells = [int(counts.get((actual, predicted), 0)) for predicted in classes]
        total = max(sum(cells), 1)
        rows.append({"actual": actual, "cells": [{"rows": cell, "share": cell / total} for cell in cells]})
    return rows


def commonest_confusions(confusion: pd.DataFrame) -> list[dict[Any, Any]]:
    """The pairs of classes that are confused most often."""
    wrong = confusion[(confusion["actual"] != confusion["predicted"]) & (confusion["rows"] > 0)]
    return wrong.sort_values("rows", ascending=False, kind="stable").head(20).to_dict("records")


def render(template: Path, content: dict[str, Any], *, escape: bool) -> bytes:
    """Fill a template; `escape` is for HTML, where every value is escaped unless it is marked as HTML."""
    environment = jinja2.Environment(
        autoescape=escape,  # noqa: S701 - Markdown has the filter `md`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "change": format_change,
        "count": lambda number: f"{number:,}",
        "executor": format_executor,
        "figure": format_figure,
        "md": escape_markdown,
        "percent": lambda share, digits=2: f"{100 * share:.{digits}f}%",
        "points": format_points,
        "power": format_power,
        "size": format_size,
        "tolerance": format_tolerance,
        "verdict": verdict,
    }
    return environment.from_string(template.read_text(encoding="utf-8")).render(content).encode()


def read_table(path: Path, columns: dict[str, Any]) -> pd.DataFrame:
    """Read a table of metrics; a class may be called "None" or "NA".

    Raises:
        StageError: A column is missing or holds something else.
    """
    try:
        table = pd.read_csv(path, dtype=columns, keep_default_na=False)
    except ValueError as error:
        raise StageError(f"{path}: not a readable table: {one_line(error)}") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise StageError(f"{path}: column {missing[0]!r} is missing; found {', '.join(table.columns)}")
    return table


def size_accuracy_points(exported: list[Candidate], best: list[Candidate]) -> list[Point]:
    """The files of which both figures are known."""
    return [
        Point(
            format=file.format,
            variant=file.variant,
            kilobytes=rounded(file.bytes / 1e3),
            accuracy=file.task["accuracy"],
            fit_to_ship=file.objection is None,
            recommended=file in best,
        )
        for file in exported
        if file.task and file.size
    ]


def in_order(table: pd.DataFrame, files: list[Candidate]) -> pd.DataFrame:
    """A table's rows in the order of the files that they are of."""
    rank = {(file.format, file.variant): index for index, file in enumerate(files)}
    ranks = [rank.get(key, len(rank)) for key in zip(table["format"], table["variant"], strict=True)]
    return table.iloc[np.argsort(ranks, kind="stable")]


def draw(
    args: argparse.Namespace, content: dict[str, Any], points: list[Point]
) -> tuple[dict[str, bytes], dict[str, Markup]]:
    """The pictures as PNG files, and as SVG elements of the page."""
    loss = read_table(args.loss, {"epoch": int, "train_loss": float, "validation_loss": float})
    parity = read_table(args.parity, {"format": str, "variant": str, "low": float, "high": float, "logits": int})
    with mpl.rc_context(STYLE):
        figures = {
            "loss": draw_loss(loss),
            "confusion": draw_confusion(content["confusion"]),
            "size_accuracy": draw_size_accuracy(
                points, content["reference"].task["accuracy"], content["params"].allowed_accuracy_loss
            ),
            "parity": draw_parity(in_order(parity, content["exported"])),
        }
        pictures = {name: to_png(figure) for name, figure in figures.items()}
        # The page has the confusion matrix as a table.
        drawings = {name: Markup(to_svg(figure, name)) for name, figure in figures.items() if name != "confusion"}  # noqa: S704
    return pictures, drawings


def read_all(args: argparse.Namespace, params: Params) -> dict[str, Any]:
    """Everything that the page shows except its pictures, by the names that the templates use."""
    schema = Prepared(args.prepared).schema
    benchmark = read_json(args.speeds)
    speeds = benchmark["files"]
    stock = speeds.get("onnx", {}).get("stock")
    of_files = [speed for variants in speeds.values() for speed in variants.values()]
    candidates = collect(
        read_json(args.evaluation), read_json(args.verification), read_json(args.sizes), speeds, params
    )
    exported = [file for file in candidates if file.format in PLATFORMS]
    choices = [choose(exported, name) for name in PLATFORMS if any(file.format == name for file in exported)]
    confusion = read_table(args.confusion, {"actual": str, "predicted": str, "rows": int})
    words = dict.fromkeys(("format", "variant", "actual", "pytorch", "predicted"), str)
    flips = read_table(args.flips, {**words, "row": int, "margin": float})
    clearest = in_order(flips, exported).groupby(["format", "variant"], sort=False)
    few_classes = len(schema.classes) <= MOST_CLASSES_IN_MATRIX
    flipped = [file for file in exported if file.parity and file.parity.get("flips")]
    sections = read_sections()
    return {
        "benchmark": benchmark,
        "best": [choice.best for choice in choices if choice.best],
        "candidates": candidates,
        "choices": choices,
        "confusion": confusion,
        "confusions": commonest_confusions(confusion),
        "description": sections["export"]["description"],
        "executions": executions(exported),
        "exported": exported,
        "flipped": flipped,
        "flips": clearest.head(FLIPS_SHOWN).to_dict("records"),
        "format_names": FORMAT_NAMES,
        "machine_names": MACHINE_NAMES,
        "matrix": confusion_rows(confusion, schema.classes) if few_classes else [],
        "params": params,
        "reference": candidates[0],
        "schema": schema,
        "sections": {name: list(flatten(section)) for name, section in sections.items()},
        "stock": stock["one_thread"]["latency_ms"]["p50"] if stock else None,
        "training": read_json(args.training),
        "unflipped": [file for file in exported if file.parity and file.parity.get("flips") == 0],
        "unmeasured": sorted({speed["reason"] for speed in of_files if speed.get("reason")}),
        "upright": max(map(len, schema.classes)) > 3 or len(schema.classes) > 8,
        "version": sections["export"]["version"],
    }


def main() -> None:
    """Read the metrics; draw the pictures, write the page and the summary."""
    args = parse_args(
        __doc__,
        inputs={
            "prepared": "the folder of prepared arrays",
            "training": "the figures of training (JSON)",
            "loss": "the loss curve (CSV)",
            "evaluation": "what each file is worth (JSON)",
            "confusion": "PyTorch's confusion table (CSV)",
            "verification": "how far each file is from PyTorch (JSON)",
            "parity": "the histogram of every file's errors (CSV)",
            "flips": "the clearest flips of every file (CSV)",
            "sizes": "the facts of each file (JSON)",
            "speeds": "the timings of each file (JSON)",
        },
        outputs={
            "page": "the report (HTML)",
            "summary": "its summary (Markdown)",
            "size_accuracy": "size and accuracy of each file (CSV)",
            "loss_picture": "PNG",
            "confusion_picture": "PNG",
            "size_accuracy_picture": "PNG",
            "parity_picture": "PNG",
        },
    )
    params = read_params("report", Params)
    content = read_all(args, params)
    points = size_accuracy_points(content["exported"], content["best"])
    pictures, content["drawings"] = draw(args, content, points)
    page = render(PAGE_TEMPLATE, content, escape=True)
    summary = render(SUMMARY_TEMPLATE, content, escape=False)
    for name, png in pictures.items():
        write_bytes(getattr(args, f"{name}_picture"), png)
    table = pd.DataFrame(
        [(f"{point.format} {point.variant}", point.kilobytes, point.accuracy) for point in points],
        columns=["file", "kilobytes", "accuracy"],
    )
    write_bytes(args.size_accuracy, table.to_csv(index=False).encode())
    write_bytes(args.summary, summary)
    write_bytes(args.page, page)


if __name__ == "__main__":
    run(main)
