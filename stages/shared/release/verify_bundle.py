"""Check this bundle, on any machine: needs numpy, and what runs its files.

    python verify.py [FOLDER]

That is onnxruntime for ONNX, coreai-core for Core AI, and for Core ML a Mac with coremltools.

Every file must have the hash that SHA256SUMS says, and every model must give the golden vectors' logits within its
tolerance. A model that cannot be run here is named, and is no pass. Nothing outside the folder is read, whatever its
files say. Exit code: 0 all that can be run here is right, 1 something is wrong, 2 nothing could be checked.
"""

import argparse
import asyncio
import atexit
import hashlib
import json
import os
import platform
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

Run = Callable[[dict[str, Any]], Any]
"""Inputs by name, of a batch of one -> its logits, (1, classes)."""


LARGEST_FILE = 2**31 - 1
"""Bytes: no file of a bundle can be larger."""


class CannotRunError(Exception):
    """Why a model cannot be run on this machine."""


class DamagedError(Exception):
    """Why this is no whole bundle."""


def printable(text: str) -> str:
    r"""Escape what a terminal would obey and not show, as Python writes it: `\x1b`, `\u202e`."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def say(text: str) -> None:
    """Print one line."""
    print(printable(text)[:2000])


def is_file(folder: Path, name: str) -> bool:
    """Whether the bundle has a regular file of that name inside it: no link, pipe or device, nothing outside."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or any(len(part) > 255 for part in parts) or "\0" in name:
        return False
    steps = [folder.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    return not any(step.is_symlink() for step in steps) and steps[-1].is_file()


def read(folder: Path, name: str) -> bytes:
    """The content of a file.

    Raises:
        DamagedError: There is none, or it is larger than any can be.
    """
    if not is_file(folder, name):
        raise DamagedError(f"{name}: no such file in it")
    if (folder / name).stat().st_size > LARGEST_FILE:
        raise DamagedError(f"{name}: larger than any file of a bundle")
    return (folder / name).read_bytes()


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Raises:
        DamagedError: It does not.
    """
    try:
        content = json.loads(read(folder, name))
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are not UTF-8
        raise DamagedError(f"{name}: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{name}: holds no object")
    return content


def open_onnx(path: Path, output: str) -> Run:
    """An ONNX file, or one in ORT format, on ONNX Runtime, one thread."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise CannotRunError("onnxruntime is not installed") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # faster for one sequence at a time
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


def open_coreai(path: Path, output: str) -> Run:
    """A Core AI asset on Apple's runtime, which the package coreai-core brings to Linux and macOS."""
    try:
        from coreai.authoring import AIModelAsset
        from coreai.runtime import NDArray
    except ImportError:
        raise CannotRunError("coreai-core is not installed") from None
    atexit.register(time.sleep, 0.2)  # its threads let go of Python's objects; after Python's end they would crash
    loop = asyncio.new_event_loop()

    async def load() -> Any:
        async with AIModelAsset.load(path).executable() as model:
            return model.load_function("main")

    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:  # it logs to the standard error
        os.dup2(nowhere.fileno(), 2)
    try:
        function = loop.run_until_complete(load())
    finally:
        os.dup2(kept, 2)
        os.close(kept)

    def run(inputs: dict[str, Any]) -> Any:
        arrays = {name: NDArray(np.ascontiguousarray(array)) for name, array in inputs.items()}
        return loop.run_until_complete(function(arrays))[output].numpy()

    return run


def open_executorch(path: Path, output: str) -> Run:  # noqa: ARG001 - a program's outputs have no names
    """An ExecuTorch program on ExecuTorch's runtime."""
    try:
        import torch
        from executorch.runtime import Runtime
    except ImportError:
        raise CannotRunError("executorch is not installed") from None
    program = Runtime.get().load_program(path.read_bytes())
    method = program.load_method("forward")

    def run(inputs: dict[str, Any], owner: Any = program) -> Any:  # noqa: ARG001 - it lives for as long as this does
        return method.execute([torch.from_numpy(each) for each in inputs.values()])[0].numpy()

    return run


OPENERS = {
    ".onnx": open_onnx,
    ".ort": open_onnx,
    ".mlpackage": open_coreml,
    ".aimodel": open_coreai,
    ".pte": open_executorch,
}
FOLDERS = {".mlpackage", ".aimodel"}


def check_sums(folder: Path) -> list[str]:
    """What is wrong with the files: missing, changed, or not listed."""
    problems = []
    listed = {}
    for line in read(folder, "SHA256SUMS").decode(errors="backslashreplace").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    for name, digest in listed.items():
        if not is_file(folder, name):
            problems.append(f"{name}: missing")
        elif (folder / name).stat().st_size > LARGEST_FILE or hash_of(folder / name) != digest:
            problems.append(f"{name}: not the file that was released")
    ignored = {"SHA256SUMS", "SHA256SUMS.sig"}
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    problems += [f"{name}: not listed in SHA256SUMS" for name in sorted(found - listed.keys() - ignored)]
    return problems


def hash_of(file: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_vectors(folder: Path) -> dict[str, Any]:
    """The golden vectors: arrays by name, of which none is ever unpickled.

    Raises:
        DamagedError: There are none, or they are not arrays of numbers of one length.
    """
    name = "golden.npz"
    if not is_file(folder, name):
        raise DamagedError(f"{name}: no such file in it")
    size = (folder / name).stat().st_size
    try:
        with zipfile.ZipFile(folder / name) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > min(size, LARGEST_FILE):
            raise DamagedError(f"{name}: {size} bytes that would unpack to {unpacked}")
        with np.load(folder / name, allow_pickle=False) as archive:
            vectors = dict(archive)
    except DamagedError:
        raise
    except Exception as error:  # what a library raises has no common base
        raise DamagedError(f"{name}: {error or type(error).__name__}") from None
    kinds = {"sequences": 3, "lengths": 1} | {each: 2 for each in vectors if each.startswith("logits/")}
    for each, axes in kinds.items():
        array = vectors.get(each)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fi" or array.ndim != axes:
            raise DamagedError(f"{name}: no {each} of {axes} axes of numbers")
        if not len(array) or len(array) != len(vectors["sequences"]):
            raise DamagedError(f"{name}: {len(array)} {each}; every vector has one, and there is one at least")
    return vectors


def largest_error(run: Run, signature: dict[str, Any], vectors: dict[str, Any], logits: Any) -> float:
    """The largest difference from the golden logits, as a share of their largest: infinite if one is not finite."""
    names = [tensor["name"] for tensor in signature["inputs"]]
    worst = 0.0
    scale = float(np.abs(logits).max()) or 1.0
    for sequence, length, expected in zip(vectors["sequences"], vectors["lengths"], logits, strict=True):
        inputs = dict(zip(names, (sequence[None], np.array([length], np.int32)), strict=False))
        found = np.asarray(run(inputs))[0]
        if found.shape != expected.shape:
            raise ValueError(f"gives {found.shape[0] if found.ndim else 1} logits; expected {len(expected)}")
        error = float(np.abs(found.astype(np.float64) - expected).max()) / scale
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def check_model(folder: Path, name: str, model: dict[str, Any], vectors: dict[str, Any]) -> tuple[str, bool]:
    """Run one model on every golden vector: the verdict in words, and whether it is right.

    Raises:
        CannotRunError: This machine cannot run it.
    """
    path, tolerance = folder / name, float(model["tolerance"])
    present = path.is_dir() and not path.is_symlink() if path.suffix in FOLDERS else is_file(folder, name)
    if PurePosixPath(name).name != name or path.suffix not in OPENERS or not present:
        raise DamagedError("no such model in the bundle")
    signature = read_object(folder, "signature.json")[name]
    run = OPENERS[path.suffix](path, signature["outputs"][0]["name"])
    error = largest_error(run, signature, vectors, vectors[f"logits/{name}"])
    right = error <= tolerance < 1
    verdict = "right" if right else "WRONG"
    return f"{verdict}: error {error:.1e}, allowed {tolerance:.0e}, {len(vectors['lengths'])} vectors", right


def main() -> int:
    """Check sums, then models; print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    folder = parser.parse_args().folder
    try:
        problems = check_sums(folder)
        models = read_object(folder, "release.json").get("models")
        if not isinstance(models, dict):
            raise DamagedError("release.json: names no models")
        vectors = read_vectors(folder) if models else {}
    except (DamagedError, OSError, MemoryError) as error:
        print(f"verify: error: {printable(f'{folder}: not a whole bundle: {error}')[:2000]}", file=sys.stderr)
        return 2
    say(f"{'files':<36} {'right' if not problems else 'WRONG'}")
    for problem in problems:
        say(f"  {problem}")
    checked, wrong = 0, bool(problems)
    for name, model in models.items():
        try:
            verdict, right = check_model(folder, name, model, vectors)
        except CannotRunError as reason:
            say(f"{name:<36} not run: {reason}")
            continue
        except Exception as failure:  # whatever a runtime raises, the model did not run
            kind = f"{type(failure).__name__}: " if isinstance(failure, LookupError | TypeError) else ""
            say(f"{name:<36} WRONG: {kind}{' '.join(str(failure).split())}")
            wrong = True
            continue
        say(f"{name:<36} {verdict}")
        checked += 1
        wrong |= not right
    if wrong:
        return 1
    if not checked:
        print("verify: error: no model could be run on this machine", file=sys.stderr)
        return 2
    return 0


def interrupted(*_: object) -> None:
    """End by one line."""
    print("verify: interrupted", file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupted)
    sys.exit(main())
