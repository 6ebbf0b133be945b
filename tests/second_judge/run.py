"""Hold the Core ML evaluator, Apple's Core AI runtime and PyTorch to each other, module by module.

Each module of `modules.py` is converted both ways, in both precisions, by the project's own exports: to a Core ML
package, which the project's evaluator runs, and to a Core AI asset, which Apple's runtime runs. They share no line of
code, so that what two of them agree on is not the error of one. The exit code is 1 if two disagree.
"""

import argparse
import importlib.metadata
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "stages"), str(ROOT)]

from export_coreml import Precision  # noqa: E402 - after the path to it
from tests.second_judge.judge import (  # noqa: E402
    BOUNDS,
    REFUSED,
    Distances,
    disagreements,
    groups,
    judge,
    refusal,
)
from tests.second_judge.modules import MODULES  # noqa: E402

PACKAGES = ("coremltools", "coreai-torch", "coreai-core", "torch")

PAGE = """# A second judge for the Core ML evaluator

Written by `make second-judge` (`tests/second_judge/run.py`; {versions}).

Away from a Mac nobody else runs Core ML packages, so the evaluator is held to Core ML's successor. Each of {count}
small modules is converted twice by the project's own exports: to a Core ML package, which the evaluator runs, and to a
Core AI asset, which Apple's own runtime runs on the CPU. The two share no code; PyTorch is the third.

Each figure is the largest difference of two, in parts of the largest value: of the evaluator and PyTorch (E-P), of Core
AI and PyTorch (A-P), of the evaluator and Core AI (E-A). Allowed are {fp32:g} in full and {fp16:g} in half precision,
where PyTorch has the same weights, rounded, and computes with them in full precision.

| module | fp32 E-P | A-P | E-A | fp16 E-P | A-P | E-A |
|---|---:|---:|---:|---:|---:|---:|
{rows}

Of these there is no second opinion, since a converter refuses them:

| module | refused by | operation |
|---|---|---|
{refused}
"""


def report(found: dict[Precision, dict[str, Distances]]) -> str:
    """The page, in Markdown."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    rows = [
        f"| {name} | {' | '.join(f'{distance:.0e}' for precision in BOUNDS for distance in found[precision][name])} |"
        for name in next(iter(found.values()))
    ]
    return PAGE.format(
        versions=versions, count=len(rows), rows="\n".join(rows),
        refused="\n".join(f"| {name} | {who} | {why} |" for name, (who, why) in REFUSED.items()), **BOUNDS,
    )  # fmt: skip


def main() -> int:
    """Judge all, write the page; 1 if two disagree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--match", default="", help="only the modules whose name has this in it")
    parser.add_argument("--report", type=Path, help="write the table to this Markdown file")
    args = parser.parse_args()
    names = [name for name in MODULES if args.match in name]
    found: dict[Precision, dict[str, Distances]] = {precision: {} for precision in BOUNDS}
    problems = []
    for precision, results in found.items():
        for group in groups(names):
            with tempfile.TemporaryDirectory() as folder:
                results |= judge(group, precision, Path(folder))
        for name, distances in results.items():
            print(f"{precision}  {'  '.join(f'{distance:.1e}' for distance in distances)}  {name}")
            problems += disagreements(name, precision, distances)
    for name in names:
        if name in REFUSED and REFUSED[name][1] not in (said := refusal(name)):
            problems.append(f"{name}: {said}; expected: {REFUSED[name][1]}")
    if args.report:
        args.report.write_text(report(found), encoding="utf-8")
    print("\n".join(problems) or f"{len(found['fp32'])} modules: no two disagree")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
