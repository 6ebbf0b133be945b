"""The state of a training under way, in a file: what an interrupted run goes on from."""

import hashlib
import io
import os
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.kit.stage import StageError, machine_fault, read_bytes, reading
from shared.training.devices import Processes

import torch

STAGES = Path(__file__).resolve().parents[2]


def hash_files(files: list[Path]) -> str:
    """A hash of the contents of files, in their order; read piece by piece, at the speed of the disk."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def hash_sources() -> str:
    """A hash of every file of the stages that this process has loaded."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    loaded = {vars(module).get("__file__") or "" for module in modules}  # getattr makes lazy modules load others
    return hash_files([Path(file) for file in sorted(loaded) if file.startswith(f"{STAGES}{os.sep}")])


def state_path(checkpoint: Path) -> Path:
    """Where the state of a training lies that is to end in a checkpoint."""
    return checkpoint.with_name(f".{checkpoint.stem}.resume")


class ResumeFile:
    """Keeps the state of a training, for a later run with the same inputs to go on from.

    Args:
        path: The file. Its name is hidden, so that neither DVC nor a stage that lists the folder sees it.
        inputs: What the result depends on, and a fingerprint of each: a state made from others is not used.
        seconds: The time between two writings.
        processes: Those that train together. The first one reads and writes.
    """

    def __init__(self, path: Path, inputs: dict[str, str], seconds: float, processes: Processes) -> None:
        self.path = path
        self.inputs = inputs
        self.seconds = seconds
        self.processes = processes
        self.written = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write again: the same answer in all processes."""
        return self.processes.first_decides(time.monotonic() - self.written >= self.seconds)

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file in one step, so that at any moment there is a whole one."""
        if self.processes.rank == 0:
            part = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            with part.open("wb") as file:
                file.write(pack({"inputs": self.inputs, "state": state}))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        self.written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The state in the file, in all processes; None, and a notice, if it cannot be used."""
        content = None
        if self.processes.rank == 0:
            for part in self.path.parent.glob(f"{self.path.name}.*"):  # what a killed run was writing
                part.unlink(missing_ok=True)
        if self.processes.rank == 0 and self.path.exists():
            content, problem = self._content()
            print(f"{self.path}: {problem or 'going on from it'}", file=sys.stderr)
            content = None if problem else content
        content = self.processes.first_sends(content)
        return None if content is None else unpack(content)["state"]

    def _content(self) -> tuple[bytes | None, str | None]:
        """The file's content, and why it is of no use, if so."""
        try:
            with reading(self.path, "state of a training"):
                content = read_bytes(self.path)
                inputs = unpack(content)["inputs"]
                other = [name for name in self.inputs if inputs[name] != self.inputs[name]]
        except StageError as error:
            if machine_fault(error):
                raise
            return None, f"left aside, it is damaged: {str(error).partition(': ')[2][:120]}"
        return content, f"left aside, it was made from other {' and other '.join(other)}" if other else None

    def remove(self) -> None:
        """Delete the file: training is complete."""
        self.path.unlink(missing_ok=True)


def pack(content: dict[str, Any]) -> bytes:
    """Plain data and tensors as bytes: their hash, which torch's format lacks, and torch's format."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return hashlib.sha256(buffer.getbuffer()).digest() + buffer.getvalue()


def unpack(packed: bytes) -> dict[str, Any]:
    """What `pack` was given, without unpickling any code.

    Raises:
        ValueError: Bytes are missing or were changed.
        pickle.UnpicklingError: There is more than plain data and tensors.
    """
    size = hashlib.sha256().digest_size
    digest, content = packed[:size], packed[size:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its hash is wrong")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a strange pickle: it is refused anyway
        loaded: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    return loaded
