"""ONNX Runtime in WebAssembly, one thread, as a browser has it: node runs what the page holds that runs the model."""

import contextlib
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.execution.interface import Interface
from shared.execution.isolation import death
from shared.execution.runtimes import Floats, LeftOutError, Lengths, by_name
from shared.kit.stage import StageError, one_line

import numpy as np

PROJECT = Path(__file__).resolve().parents[3]
PACKAGE = Path("node_modules") / "onnxruntime-web"
SCRIPT = PACKAGE / "dist" / "ort.wasm.bundle.min.mjs"
MODULE = PACKAGE / "dist" / "ort-wasm-simd-threaded.wasm"
VERSION = "1.30.0"
"""As in web/package-lock.json. It stands here too so that the stages which run or hold it depend on it."""
OLDEST_NODE = 20
AGAIN = "then `dvc repro --force --single-item predict@web` and `dvc repro`"
"""What runs the files after all: DVC sees none of what is installed, and so no reason to run the stage again."""
EXECUTOR = Path(__file__).with_name("web_executor.mjs")
LEAVING_SECONDS = 5
DTYPES = {"float32": np.float32, "float64": np.float64, "int32": np.int32, "int64": np.int64, "float16": np.float16}


def find_node() -> tuple[str, Path]:
    """The program that runs WebAssembly here, and the folder `web` in which the runtime is installed.

    Of this project; or of one that it lies in, as an experiment does that DVC runs from its queue: what npm installed
    is no part of a commit.

    Raises:
        LeftOutError: One of them is not there, or in another version.
    """
    node = shutil.which("node")
    if node is None:
        raise LeftOutError(f"node was not found: install Node.js {OLDEST_NODE} or newer, `make web`, {AGAIN}")
    printed = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)", printed)
    if not found or int(found[1]) < OLDEST_NODE:
        version = printed.strip() or "without a version"
        raise LeftOutError(f"found node {version}: install Node.js {OLDEST_NODE} or newer, `make web`, {AGAIN}")
    folders = [folder / "web" for folder in (PROJECT, *PROJECT.parents)]
    web = next((folder for folder in folders if (folder / PACKAGE).is_dir()), folders[0])
    try:
        installed = json.loads((web / PACKAGE / "package.json").read_bytes())["version"]
    except (OSError, ValueError, KeyError):
        raise LeftOutError(f"onnxruntime-web is not installed: `make web` installs it, with npm; {AGAIN}") from None
    if installed != VERSION:
        raise LeftOutError(f"found onnxruntime-web {installed}: `make web` installs {VERSION}; {AGAIN}")
    return node, web


class WebRuntime:
    """An ONNX file in a process of node's, which ends with this object or with this process.

    Args:
        path: The file.
        interface: What it declares of itself.
        batch_dependent: See `Runtime`.

    Raises:
        LeftOutError: Node or the runtime is not installed, or does not start here.
        StageError: The runtime refuses the file.
    """

    executor = "web"

    def __init__(self, path: Path, interface: Interface, batch_dependent: bool) -> None:
        self._path, self.interface, self.batch_dependent = path, interface, batch_dependent
        node, web = find_node()
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        files = [str(web / SCRIPT), str(web / MODULE), str(path)]
        try:
            with _room_for_webassembly() as data_limit:
                self._process = subprocess.Popen(
                    [node, str(EXECUTOR), *files, str(theirs_in), str(theirs_out)],
                    stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(theirs_in, theirs_out),
                )  # fmt: skip
            if sys.platform == "linux":
                _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_DATA)
                resource.prlimit(self._process.pid, resource.RLIMIT_DATA, (data_limit, hard))
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
            self._requests, self._answers = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        weakref.finalize(self, _end, self._process, self._requests, self._answers)
        self.version: str = self._receive()["version"]

    def logits(self, batch: Floats, lengths: Lengths | None = None) -> Floats:
        """See `Runtime`."""
        inputs = by_name(self.interface, batch, lengths)
        listed = [
            {"name": name, "type": str(array.dtype), "shape": list(array.shape)} for name, array in inputs.items()
        ]
        header = json.dumps({"tensors": listed}).encode()
        try:
            self._requests.write(struct.pack("<I", len(header)) + header)
            for array in inputs.values():
                self._requests.write(np.ascontiguousarray(array).data)
            self._requests.flush()
        except BrokenPipeError:
            raise self._death() from None
        answer = self._receive()
        dtype, shape = np.dtype(DTYPES[answer["type"]]), answer["shape"]
        found: Floats = np.frombuffer(self._read(dtype.itemsize * int(np.prod(shape))), dtype).reshape(shape)
        return found

    def _receive(self) -> dict[str, Any]:
        """The header of the next answer.

        Raises:
            LeftOutError: WebAssembly itself does not start here, as where addresses are limited (`ulimit -v`).
            StageError: It is a failure, or the process has ended.
        """
        (length,) = struct.unpack("<I", self._read(4))
        header: dict[str, Any] = json.loads(self._read(length))
        if "left_out" in header:
            raise LeftOutError(f"{one_line(ValueError(header['left_out']))}: mend that, {AGAIN}")
        if "failure" in header:
            raise StageError(f"{self._path}: {one_line(ValueError(header['failure']))}")
        return header

    def _read(self, count: int) -> bytes:
        content = self._answers.read(count)
        if len(content) < count:
            raise self._death()
        return content

    def _death(self) -> StageError:
        """Why the process has ended."""
        try:
            code = self._process.wait(LEAVING_SECONDS)
        except subprocess.TimeoutExpired:
            return StageError(f"{self._path}: the process that ran it answers no more")
        return death(code, self._path)


@contextlib.contextmanager
def _room_for_webassembly() -> Iterator[int]:
    """Let a process that is started here reserve addresses without a limit: WebAssembly takes many more than it fills.

    Yields:
        How many bytes this process may take, to limit what is filled.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        yield soft
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _end(process: subprocess.Popen[bytes], *pipes: Any) -> None:
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.close()
    process.kill()
    process.wait()
