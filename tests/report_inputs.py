"""Everything that `report` reads, made up: as many variants, classes and verdicts as a page may have to show."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.data.sequences import Schema, Split
from shared.judging.uncertainty import loss_interval, share_interval

import numpy as np
import pandas as pd

TOLERANCES = {
    "fp32": 1e-5, "fp16": 1e-3, "int8": 0.05, "int8_static": 0.05, "palette4": 0.2, "sparse50": 0.3,
    "sparse50_palette4": 0.3,
}  # fmt: skip
EXECUTORS = {"onnx": ("onnxruntime", "1.32.0"), "coreml": ("reference", "9.0")}
PYTORCH_ACCURACY = 0.9699
ALLOWED_LOSS = 0.005


@dataclass
class File:
    """A made-up exported file: its size, the accuracy it loses, its relative error, what is wrong with it."""

    bytes: int
    accuracy_loss: float = 0.0
    error: float = 1e-7
    problems: list[str] = field(default_factory=list)
    executed: bool = True
    flips: int = 0


def default_files() -> dict[tuple[str, str], File]:
    """Ten files, among them one that loses too much, one that failed and one that could not be executed."""
    return {
        ("onnx", "fp32"): File(45_650, error=1.29e-7),
        ("onnx", "fp16"): File(24_310, 0.0001, 2.4e-4, flips=2),
        ("onnx", "int8"): File(15_070, 0.0090, 0.021, flips=112),
        ("onnx", "int8_static"): File(14_880, 0.1312, 0.21, ["graph: relative error 0.21 is above 0.05"], flips=1405),
        ("coreml", "fp32"): File(47_920, error=8.4e-8),
        ("coreml", "fp16"): File(27_130, -0.0001, 3.8e-4, flips=4),
        ("coreml", "int8"): File(17_560, 0.0004, 0.0094, flips=19),
        ("coreml", "palette4"): File(12_240, 0.0041, 0.083, flips=131),
        ("coreml", "sparse50"): File(31_020, problems=["executed: no prediction was found"], executed=False),
        ("coreml", "sparse50_palette4"): File(9_870, 0.0533, 0.19, flips=611),
    }


def write_inputs(
    folder: Path, files: dict[tuple[str, str], File] | None = None, classes: list[str] | None = None, rows: int = 10_000
) -> None:
    """Write `metrics/` and `data/prepared/schema.json` below a folder."""
    files = default_files() if files is None else files
    classes = ["0", "1", "2"] if classes is None else classes
    random = np.random.default_rng(0)
    metrics = folder / "metrics"
    metrics.mkdir(parents=True, exist_ok=True)
    shares = random.dirichlet(np.full(len(classes), 8.0))
    split_rows: dict[Split, int] = {"train": 400, "validation": 100, "test": rows}
    class_rows = {split: random.multinomial(count, shares) for split, count in split_rows.items()}
    schema = Schema(
        features=["value"],
        time_steps=6,
        classes=classes,
        ragged=False,
        rows={split: int(counts.sum()) for split, counts in class_rows.items()},
        class_rows={split: counts.tolist() for split, counts in class_rows.items()},
        length_range=(6, 6),
        filled=0,
        mean=[4.99518],
        deviation=[2.89147],
    )
    _write(folder / "data" / "prepared" / "schema.json", schema.model_dump())
    _write(folder / "data" / "predictions" / "pytorch" / "fp32.json", {
        "executor": "pytorch",
        "features": {"value": {"kind": "codes", "seen": 30, "codes": list(range(20))}},
        "probes": {
            "far": _probe(64, [6], -4.0, 13.7, len(classes)),
            "far@50": _probe(64, [50], -4.0, 13.7, len(classes)),
            "zeros": _probe(16, [6], 0.0, 0.0, len(classes)) | {"logits": [[None] * len(classes)] * 16},
            "edge": {**_probe(16, [6], -65504.0, 65504.0, len(classes)), "failure": "ValueError: too large"},
        },
    })  # fmt: skip
    _write(metrics / "train.json", {
        "epochs": 300, "train_loss": 0.0732468, "validation_loss": 0.0825928, "validation_accuracy": 0.97,
        "weights": 10753,
    })  # fmt: skip
    epochs = np.arange(1, 301)
    pd.DataFrame({
        "epoch": epochs,
        "train_loss": 1.05 * np.exp(-epochs / 70) + 0.0599 + 0.004 * np.sin(epochs / 6),
        "validation_loss": 1.02 * np.exp(-epochs / 72) + 0.0686 + 0.006 * np.sin(epochs / 5),
    }).round(6).to_csv(metrics / "loss.csv", index=False)  # fmt: skip
    _write_confusion(metrics / "confusion.csv", classes, class_rows["test"], random)
    evaluation, verification, sizes, speeds, parity, flips = _figures(files, classes, rows, random)
    _write(metrics / "evaluate.json", evaluation)
    _write(metrics / "verify.json", verification)
    _write(metrics / "size.json", sizes)
    _write(metrics / "benchmark.json", {
        "machine": {
            "cpu": "AMD EPYC 9R14", "cores": 2, "memory_gb": 24.0, "system": "Linux 6.12 x86_64", "python": "3.11.2",
            "torch": "2.13.0", "onnxruntime": "1.32.0", "coremltools": "9.0", "numpy": "2.3.5",
        },
        "files": speeds,
    })  # fmt: skip
    pd.DataFrame(parity, columns=["format", "variant", "low", "high", "logits"]).to_csv(
        metrics / "parity.csv", index=False
    )
    pd.DataFrame(flips, columns=["format", "variant", "row", "actual", "pytorch", "predicted", "margin"]).to_csv(
        metrics / "flips.csv", index=False
    )


def _probe(rows: int, steps: list[int], lowest: float, highest: float, classes: int) -> dict[str, Any]:
    return {
        "rows": rows, "time_steps": steps, "same_as": None, "lowest": [lowest], "highest": [highest],
        "logits": [[0.5] * classes] * rows, "rounding": 1e-7,
        "example": [[lowest, highest, None, lowest, highest, highest]],
    }  # fmt: skip


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))


def _write_confusion(path: Path, classes: list[str], counts: Any, random: np.random.Generator) -> None:
    table = []
    for i, actual in enumerate(classes):
        shares = np.exp(-2.2 * np.abs(np.arange(len(classes)) - i) - 1.3)
        shares[i] = 0
        shares[i] = 30 * shares.sum()
        found = random.multinomial(counts[i], shares / shares.sum())
        table += [(actual, predicted, int(found[j])) for j, predicted in enumerate(classes)]
    pd.DataFrame(table, columns=["actual", "predicted", "rows"]).to_csv(path, index=False)


def _task(loss: float, classes: list[str], random: np.random.Generator) -> dict[str, Any]:
    usual = 0.93 + 0.06 * np.random.default_rng(1).random(len(classes))
    recall = np.clip(usual - 2 * loss * random.random(len(classes)), 0, 1)
    return {
        "accuracy": round(PYTORCH_ACCURACY - loss, 6), "macro_f1": round(0.931683 - loss, 6), "loss": 0.0907745,
        "recall": dict(zip(classes, recall.round(6).tolist(), strict=True)),
        "accuracy_interval": list(share_interval(round(10_000 * (PYTORCH_ACCURACY - loss)), 10_000)),
    }  # fmt: skip


def _speed(executor: str, latency: float) -> dict[str, Any]:
    threads = {
        "latency_ms": {
            "p50": latency, "p50_low": 0.97 * latency, "p50_high": 1.1 * latency, "p95": 1.2 * latency,
            "p99": 1.9 * latency,
        },
        "batch_64": 7e3 / latency, "best": 9e3 / latency, "best_batch": 256,
    }  # fmt: skip
    return {
        "executor": executor, "load_ms": 2.1, "peak_memory_mb": 33.0, "one_thread": threads, "all_threads": threads,
    }  # fmt: skip


def _figures(files: dict[tuple[str, str], File], classes: list[str], rows: int, random: np.random.Generator) -> Any:
    source = _task(0, classes, random) | {
        "majority_class": classes[0], "majority_accuracy": 0.5, "collapsed": False,
    }  # fmt: skip
    evaluation: dict[str, Any] = {"pytorch": {"fp32": source}}
    verification: dict[str, Any] = {}
    sizes: dict[str, Any] = {"pytorch": {"fp32": _size(47_420, "pytorch")}}
    speeds: dict[str, Any] = {
        "pytorch": {"fp32": _speed("pytorch", 0.193)},
        "onnx": {"stock": _speed("onnxruntime", 0.037)},
    }
    parity: list[tuple[Any, ...]] = []
    flips: list[tuple[Any, ...]] = []
    edges = [0.0, *(float(f"{10 ** (k / 3):.3g}") for k in range(-27, 10))]
    for (file_format, variant), file in files.items():
        executor, version = EXECUTORS[file_format]
        sizes.setdefault(file_format, {})[variant] = _size(file.bytes, file_format)
        speeds.setdefault(file_format, {})[variant] = (
            _speed(executor, 0.024)
            if file_format == "onnx"
            else {"executor": None, "reason": "Core ML runs on macOS only"}
        )
        figures: dict[str, Any] = verdict(file)
        verification.setdefault(file_format, {})[variant] = figures
        if not file.executed:
            continue
        evaluation.setdefault(file_format, {})[variant] = _task(file.accuracy_loss, classes, random) | {
            "accuracy_loss_interval": list(loss_interval(max(0, round(rows * file.accuracy_loss)), 0, rows))
        }
        errors = np.abs(random.normal(0, 6 * file.error, 3 * rows))
        errors[: rows // 200] = 0
        counts, _ = np.histogram(errors, edges)
        parity += [(file_format, variant, edges[k], edges[k + 1], int(n)) for k, n in enumerate(counts)]
        margins = np.sort(random.exponential(8 * file.error, file.flips))[::-1]
        for margin in margins[:10]:
            actual = int(random.integers(len(classes)))
            other = (actual + 1) % len(classes)
            flips.append((file_format, variant, int(random.integers(rows)), classes[actual], classes[actual],
                          classes[other], float(f"{margin:.3g}")))  # fmt: skip
        figures |= {
            "executor": executor, "executor_version": version, "platform": "Linux-x86_64",
            "accuracy_loss": round(file.accuracy_loss, 6),
            "weights": {"tensors": 5, "stored_as_named": 4 if file.problems else 5}, "graph_error": 1.5e-7,
            "graph_bound": 1e-5, "notes": ["probes: the net itself refuses 'edge': ValueError: too large"],
            "worst_class_error": 1.2 * file.error, "largest_error": 5 * file.error, "made_up_error": 9 * file.error,
            "max_absolute_error": float(f"{errors.max():.3g}"),
            "mean_absolute_error": float(f"{errors.mean():.3g}"), "relative_error": file.error, "psnr_db": 80.1,
            "argmax_agreement": 1 - file.flips / rows, "flips": file.flips,
            "largest_flipped_margin": float(f"{margins.max(initial=0):.3g}"), "flips_within_margin": file.flips < 500,
        }  # fmt: skip
    return evaluation, verification, sizes, speeds, parity, flips


def verdict(file: File, allowed: float = ALLOWED_LOSS) -> dict[str, Any]:
    """What `verify` says of a file with these problems and this loss."""
    loss = round(file.accuracy_loss, 6)
    losses = [f"accuracy_loss: {loss} of the rows are lost against PyTorch; allowed: {allowed}"] * (loss > allowed)
    outcome = "wrong" if file.problems else "too_lossy" if losses else "fit"
    return {"outcome": outcome, "passed": not file.problems, "problems": file.problems, "losses": losses}


REQUIRES: dict[str, dict[str, Any]] = {
    "pytorch": {},
    "onnx": {"opset": 20, "ir_version": 9, "contrib_ops": [], "onnxruntime": "1.17"},
    "coreml": {"specification_version": 8, "ios": 17, "macos": 14},
}
"""What the made-up files need, by their format."""


ACCELERATORS = {
    name: {"as_is": "no", "fixed_shapes": "no"} for name in ("nnapi", "coreml_program", "coreml_neural_network")
}
"""What ONNX Runtime's checker says of a recurrent net."""


def _size(count: int, file_format: str) -> dict[str, Any]:
    return {
        "bytes": count, "compressed_bytes": int(0.88 * count), "weights": 10753, "weight_bytes": int(0.9 * count),
        "compressed_share": 0.9, "nodes": 4, "requires": REQUIRES[file_format],
        **({"accelerators": ACCELERATORS} if file_format == "onnx" else {}),
    }  # fmt: skip
