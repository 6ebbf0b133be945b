"""Check this bundle, on any machine: needs numpy and onnxruntime, and on macOS coremltools for the Core ML files.

    python verify.py [FOLDER]

Every file must have the hash that SHA256SUMS says, and every model must give the golden vectors' logits within its
tolerance. A model that cannot be run here is named, and is no pass. Exit code: 0 all that can be run here is right,
1 something is wrong, 2 nothing could be checked.
"""

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[dict[str, Any]], Any]
"""Inputs by name, of a batch of one -> its logits, (1, classes)."""


class CannotRunError(Exception):
    """Why a model cannot be run on this machine."""


def open_onnx(path: Path, output: str) -> Run:
    """An ONNX file on ONNX Runtime, one thread."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise CannotRunError("onnxruntime is not installed") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([output], inputs)[0]


def open_coreml(path: Path, output: str) -> Run:
    """An mlpackage on Core ML: on macOS alone."""
    if platform.system() != "Darwin":
        raise CannotRunError("Core ML runs on macOS and iOS alone")
    try:
        import coremltools as ct
    except ImportError:
        raise CannotRunError("coremltools is not installed") from None
    model = ct.models.MLModel(str(path))
    return lambda inputs: model.predict(inputs)[output]


OPENERS = {".onnx": open_onnx, ".mlpackage": open_coreml}


def check_sums(folder: Path) -> list[str]:
    """What is wrong with the files: missing, changed, or not listed."""
    problems = []
    listed = {}
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    for name, digest in listed.items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{name}: missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            problems.append(f"{name}: not the file that was released")
    ignored = {"SHA256SUMS", "SHA256SUMS.sig"}
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    problems += [f"{name}: not listed in SHA256SUMS" for name in sorted(found - listed.keys() - ignored)]
    return problems


def largest_error(run: Run, signature: dict[str, Any], vectors: Any, logits: Any) -> float:
    """The largest difference from the golden logits, as a share of their largest: infinite if one is not finite."""
    names = [tensor["name"] for tensor in signature["inputs"]]
    worst = 0.0
    scale = float(np.abs(logits).max()) or 1.0
    for sequence, length, expected in zip(vectors["sequences"], vectors["lengths"], logits, strict=True):
        inputs = dict(zip(names, (sequence[None], np.array([length], np.int32)), strict=False))
        found = np.asarray(run(inputs))[0]
        error = float(np.abs(found.astype(np.float64) - expected).max()) / scale
        worst = max(worst, error if np.isfinite(found).all() else float("inf"))
    return worst


def check_model(folder: Path, name: str, release: dict[str, Any], vectors: Any) -> tuple[str, float]:
    """Run one model on every golden vector: the verdict in words, and the largest error."""
    signature = json.loads((folder / "signature.json").read_text(encoding="utf-8"))[name]
    path = folder / name
    run = OPENERS[path.suffix](path, signature["outputs"][0]["name"])
    error = largest_error(run, signature, vectors, vectors[f"logits/{name}"])
    return ("right" if error <= release["models"][name]["tolerance"] else "WRONG"), error


def main() -> int:
    """Check sums, then models; print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    folder = parser.parse_args().folder
    try:
        problems = check_sums(folder)
        release = json.loads((folder / "release.json").read_text(encoding="utf-8"))
        vectors = np.load(folder / "golden.npz", allow_pickle=False)
    except (OSError, ValueError) as error:
        print(f"verify: error: {folder}: not a whole bundle: {error}", file=sys.stderr)
        return 2
    print(f"{'files':<36} {'right' if not problems else 'WRONG'}")
    for problem in problems:
        print(f"  {problem}")
    checked, wrong = 0, bool(problems)
    for name, model in release["models"].items():
        try:
            verdict, largest = check_model(folder, name, release, vectors)
        except CannotRunError as reason:
            print(f"{name:<36} not run: {reason}")
            continue
        except Exception as failure:  # whatever a runtime raises, the model did not run
            print(f"{name:<36} WRONG: {' '.join(str(failure).split())}")
            wrong = True
            continue
        allowed, count = model["tolerance"], len(vectors["lengths"])
        print(f"{name:<36} {verdict}: error {largest:.1e}, allowed {allowed:.0e}, {count} vectors")
        checked += 1
        wrong |= verdict != "right"
    if wrong:
        return 1
    if not checked:
        print("verify: error: no model could be run on this machine", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
