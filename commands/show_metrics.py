"""Print the figures of the last run: a line for every model file."""

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = ("file", "executed by", "accuracy", "macro F1", "loss", "error", "tolerance", "parity")


def line(name: str, figures: dict[str, Any] | None, parity: dict[str, Any] | None) -> tuple[str, ...]:
    """One row of the table; the error is relative to the standard deviation of PyTorch's logits."""
    task = ("", "", "")
    if figures:
        task = (f"{figures['accuracy']:.2%}", f"{figures['macro_f1']:.4f}", f"{figures['loss']:.4f}")
    if parity is None:
        return (name, "pytorch", *task, "", "", "the reference")
    verdict = "verified" if parity["passed"] else "; ".join(parity["problems"])
    if "relative_error" not in parity:
        return (name, parity.get("executor", ""), *task, "", "", verdict)
    return (name, parity["executor"], *task, f"{parity['relative_error']:.1e}", f"{parity['tolerance']:.0e}", verdict)


def main() -> None:
    """Read the committed metrics and print the table."""
    try:
        evaluation = json.loads(Path("metrics/evaluate.json").read_bytes())
        verification = json.loads(Path("metrics/verify.json").read_bytes())
    except FileNotFoundError as error:
        print(f"show_metrics: error: {error.filename}: no such file; `dvc repro` writes it", file=sys.stderr)
        sys.exit(1)
    rows = [COLUMNS] + [
        line(f"{file_format} {precision}", evaluated.get(precision), verified.get(precision))
        for file_format in evaluation | verification
        for evaluated, verified in [(evaluation.get(file_format, {}), verification.get(file_format, {}))]
        for precision in sorted(evaluated | verified)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
