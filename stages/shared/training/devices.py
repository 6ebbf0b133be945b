"""Where training runs: on the CPU or a GPU, in one process or in several that `torchrun` started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from shared.kit.stage import StageError

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import deterministic

DeviceName = Literal["auto", "cpu", "cuda", "mps"]

# Read by cuBLAS when it starts: without it some of its results change from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@dataclass(frozen=True)
class Processes:
    """The processes that train one model together, as seen from one of them.

    Attributes:
        device: What this process computes on.
        rank: Its number, from 0; rank 0 alone writes files.
        count: How many there are, on all machines.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    def replicate(self, model: nn.Module) -> nn.Module:
        """Make the backward pass of the returned model average its gradients over the processes."""
        return nn.parallel.DistributedDataParallel(model) if self.count > 1 else model

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all processes, stacked along a new first axis."""
        everyone = torch.zeros(self.count, *values.shape, dtype=values.dtype, device=values.device)
        everyone[self.rank] = values
        return self.sum(everyone)

    def first_decides(self, flag: bool) -> bool:
        """What the first process says, in all of them: their clocks and their files differ."""
        if self.count == 1:
            return flag
        decision = torch.tensor([flag])
        dist.broadcast(decision, src=0)
        return bool(decision)

    def first_sends(self, content: bytes | None) -> bytes | None:
        """The first process's bytes in all processes; None for none."""
        if self.count == 1:
            return content
        size = torch.tensor([0 if content is None else len(content)])
        dist.broadcast(size, src=0)
        data = torch.from_numpy(np.frombuffer(content or bytes(int(size)), np.uint8).copy())
        dist.broadcast(data, src=0)
        return data.numpy().tobytes() or None

    def seed(self, seed: int, step: int) -> None:
        """Seed what is drawn at random in a step on this process's device; each process draws differently."""
        value = (seed * SEED_STRIDE + step * self.count + self.rank) % 2**32  # what torch's generator on the CPU takes
        torch.default_generator.manual_seed(value)  # torch.manual_seed, which asks every kind of GPU, takes 0.1 ms
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(value)


SEED_STRIDE = 0x9E3779B1
"""Between the seeds of the first steps of two runs: 2**32 divided by the golden ratio, so that few steps share one."""

ALONE = Processes(torch.device("cpu"))


@contextmanager
def open_processes(name: DeviceName) -> Iterator[Processes]:
    """Set up this process's device, and meet the processes that `torchrun` started beside it.

    Raises:
        StageError: The device is not there, or not for so many processes.
    """
    # Deterministic algorithms where the device has them: an operation without one warns. `use_deterministic_algorithms`
    # does the same, and imports torch's compiler, which is a second of a cold run.
    torch.set_deterministic_debug_mode("warn")
    # Memory that torch would fill, which takes time, and that nothing here reads before it is written.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    rank, count, local_rank = (int(os.environ.get(key, 0)) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    kind = choose_device(name, cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available())
    device = torch.device(kind)
    if count <= 1:
        yield Processes(device)
        return
    check_sharing(kind, local_rank, torch.cuda.device_count())
    if kind == "cuda":
        device = torch.device(kind, local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    try:
        yield Processes(device, rank, count)
    finally:
        dist.destroy_process_group()


def choose_device(name: DeviceName, *, cuda: bool, mps: bool) -> Literal["cpu", "cuda", "mps"]:
    """The kind of device to use, given which there are.

    Raises:
        StageError: The one that is asked for is not among them.
    """
    if name == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    there = ["cpu", *(["cuda"] if cuda else []), *(["mps"] if mps else [])]
    if name not in there:
        raise StageError(f"train.device = {name}: torch finds no such device; it finds {', '.join(there)}")
    return name


def check_sharing(kind: str, local_rank: int, gpus: int) -> None:
    """Refuse several processes on one GPU; `local_rank` is a process's number on its machine.

    Raises:
        StageError: It says how many there can be.
    """
    if kind == "mps":
        raise StageError("several processes cannot share train.device = mps; start one, or use cpu")
    if kind == "cuda" and local_rank >= gpus:
        raise StageError(f"process {local_rank + 1} on a machine with {gpus} GPU(s): start at most one for each")
