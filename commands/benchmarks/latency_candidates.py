"""Ways to have one sequence classified, each with what it keeps of what the exported file promises.

A candidate that breaks a promise may be faster, and is no default all the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compress_onnx
import export_onnx
from commands.benchmarks.lstm_graphs import GRAPHS, Net
from commands.benchmarks.stock_export import export_stock
from commands.benchmarks.tutorial import TutorialModel
from commands.benchmarks.untrained import run_stage
from shared.execution.runners import Batch, OnnxRunner, PyTorchRunner, bind
from shared.execution.runtimes import open_session, session_options
from shared.execution.timing import Call, TimesItself
from shared.kit.stage import StageError
from shared.release.ort_format import convert

import numpy as np
import torch
from numpy.typing import NDArray

STOCK = "stock export of tutorial's model, session.run"
RUN = "session.run, names and RunOptions made once"
BOUND = "I/O binding, memory from the heap"
IN_PLACE = "I/O binding, input written in place"

SAME = 1e-6
"""How far logits may be from the exported file's, relative to the largest of them, to count as the same."""
KEPT = "kept"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """One way to have a sequence classified.

    Attributes:
        call: What is timed; None if it cannot be run.
        promises: What it breaks, in words, or `KEPT`; why it cannot be run.
        size: Of its file, in bytes.
        default: Whether the project's own runner does it so.
    """

    call: Call | TimesItself | None
    promises: str
    size: int
    default: bool = False


@dataclass(frozen=True)
class Asked:
    """What every candidate is asked.

    Attributes:
        rows: Some sequences, (rows, time, features); the first one is what is timed.
        expected: The exported file's logits of each, alone: (rows, classes).
    """

    rows: Floats
    expected: Floats

    @property
    def one(self) -> Batch:
        """The sequence that is timed."""
        return Batch(self.rows[:1], None)


def broken(session: Any, asked: Asked, content: bytes, again: bytes) -> str:
    """Which promises a file in a session breaks, in words; `KEPT` if none.

    It gives each sequence alone the logits that the exported file does, takes a batch, and has the same bytes each
    time it is made.
    """
    [source], [target] = session.get_inputs(), session.get_outputs()

    def ask(rows: Floats) -> Floats:
        logits: Floats = session.run([target.name], {source.name: rows})[0]
        return logits

    def found() -> Iterator[str]:
        yield from off(np.concatenate([ask(asked.rows[[row]]) for row in range(len(asked.rows))]), asked.expected)
        try:
            taken = ask(asked.rows).shape == asked.expected.shape
        except Exception:  # what a runtime raises has no common base
            taken = False
        if not taken:
            yield "batch fixed"
        if content != again:
            yield "other bytes when made again"

    return "; ".join(found()) or KEPT


def off(logits: NDArray[Any], expected: Floats) -> Iterator[str]:
    """How far logits are from the expected ones, if that is too far."""
    error = float(np.abs(logits - expected).max() / np.abs(expected).max())
    if not error <= SAME:
        yield f"logits {error:.0e} off"


def references(checkpoint: Path, asked: Asked, folder: Path) -> dict[str, Candidate]:
    """What is compared with: the stock exports, called as a tutorial calls them, and PyTorch's eager mode.

    One stock export is of the tutorial's own model with our weights; that of our model shows what is due to the model.
    """
    eager = PyTorchRunner(checkpoint, threads=1)
    tutorial = TutorialModel(eager.model.config.options["hidden_size"]).eval()
    for part, ours in ((tutorial.lstm, eager.model.network.rnn), (tutorial.linear, eager.model.network.linear)):
        part.load_state_dict(ours.state_dict())  # type: ignore[union-attr]
    example = (torch.from_numpy(asked.rows[:2]),)
    found: dict[str, Candidate] = {}
    for name, model in {STOCK: tutorial, "stock export of our model, session.run": eager.model}.items():
        path = folder / f"stock{len(found)}.onnx"
        export_stock(model, example, path)
        content = path.read_bytes()
        export_stock(model, example, path)
        found[name] = candidate(path, lambda runner: plain_call(runner, asked), asked, content)
    size = checkpoint.stat().st_size
    return found | {"torch eager": Candidate(eager.call(asked.one), "the reference", size)}


def candidate(
    path: Path,
    call: Callable[[OnnxRunner], Call],
    asked: Asked,
    again: bytes,
    adjust: Callable[[Any], None] | None = None,
    *,
    default: bool = False,
) -> Candidate:
    """A file, called in some way, with other session options than the runner's own if these are to be adjusted."""
    options = None
    content = path.read_bytes()
    if adjust:
        options = session_options(threads=1)
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4  # what is refused is told in the table
        adjust(options)
    try:
        runner = OnnxRunner(path, 1, options)
        promises = broken(runner.session, asked, content, again)
        return Candidate(call(runner), promises, len(content), default)
    except StageError as error:
        return Candidate(None, str(error).removeprefix(f"{path}: "), len(content))


def plain_call(runner: OnnxRunner, asked: Asked) -> Call:
    """As a tutorial calls a session."""
    session, feeds = runner.session, runner.feeds(asked.one)
    return lambda: session.run(None, feeds)[0]


def call_with_values(runner: OnnxRunner, asked: Asked) -> Call:
    """With tensors of the runtime's own, made once."""
    import onnxruntime as ort

    session = runner.session
    names = [output.name for output in session.get_outputs()]
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in runner.feeds(asked.one).items()}
    return lambda: session.run_with_ort_values(names, values)[0]


def call_in_place(runner: OnnxRunner, asked: Asked) -> Call:
    """As `OnnxRunner.bound_call`, but without its copy: an app that writes its numbers where the runtime reads them."""
    session, bound = runner.session, bind(runner.session, runner.feeds(asked.one))
    binding = bound.binding

    def run() -> object:
        session.run_with_iobinding(binding)
        return bound.logits

    return run


def remake(exported: Path, prepared: Path, checkpoint: Path, folder: Path) -> dict[str, bytes]:
    """The bytes of the ONNX files that are exported or compressed anew, by variant."""
    made = folder / "classifier-fp32.onnx"
    run_stage(export_onnx, checkpoint, made)
    for variant in ("fp16", "int8"):
        run_stage(compress_onnx, exported, prepared, folder / f"classifier-{variant}.onnx")
    return {path.stem.partition("-")[2]: path.read_bytes() for path in sorted(folder.glob("classifier-*.onnx"))}


def ways_to_call(path: Path, asked: Asked, again: bytes) -> dict[str, Candidate]:
    """The exported file, called from Python in each way that there is."""
    return {
        "session.run": candidate(path, lambda runner: plain_call(runner, asked), asked, again),
        RUN: candidate(path, lambda runner: runner.call(asked.one), asked, again, default=True),
        "run_with_ort_values": candidate(path, lambda runner: call_with_values(runner, asked), asked, again),
        BOUND: candidate(path, lambda runner: runner.bound_call(asked.one), asked, again, default=True),
        IN_PLACE: candidate(path, lambda runner: call_in_place(runner, asked), asked, again, adjust=lambda _: None),
    }


def arena(options: Any) -> None:
    """The runtime's default: memory from an arena of its own."""
    options.enable_cpu_mem_arena = True


def shared_arena(options: Any) -> None:
    """One arena for all sessions."""
    import onnxruntime as ort

    kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, None)
    options.add_session_config_entry("session.use_env_allocators", "1")


def no_pattern(options: Any) -> None:
    """Memory is planned anew in every call."""
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False


def not_packed(options: Any) -> None:
    """Weights stay as they are in the file."""
    options.add_session_config_entry("session.disable_prepacking", "1")


def not_optimized(options: Any) -> None:
    """The graph stays as it is in the file."""
    import onnxruntime as ort

    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def parallel(options: Any) -> None:
    """Nodes may run side by side."""
    import onnxruntime as ort

    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL


def all_cores(options: Any) -> None:
    """As many threads as there are cores."""
    options.intra_op_num_threads = 0


def not_spinning(options: Any) -> None:
    """As many threads as there are cores, which sleep while there is nothing to do."""
    options.intra_op_num_threads = 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")


def no_denormals(options: Any) -> None:
    """Numbers too small to be normal are zero."""
    options.add_session_config_entry("session.set_denormal_as_zero", "1")


def known_batch(options: Any) -> None:
    """The batch is known to be one when the graph is optimised."""
    options.add_free_dimension_override_by_name("batch", 1)


OPTIONS: dict[str, Callable[[Any], None]] = {
    "memory from the arena": arena,
    "memory from an arena of all sessions": shared_arena,
    "memory from the arena, enable_mem_pattern off": no_pattern,
    "session.disable_prepacking": not_packed,
    "graph_optimization_level: none": not_optimized,
    "execution_mode: parallel": parallel,
    "threads: all cores": all_cores,
    "threads: all cores, allow_spinning off": not_spinning,
    "session.set_denormal_as_zero": no_denormals,
    "free dimension override: batch = 1": known_batch,
}
"""What is different from `BOUND`, in the words of the runtime's options."""


def other_options(path: Path, asked: Asked, again: bytes) -> dict[str, Candidate]:
    """The exported file with I/O binding, with each of the session options."""
    return {
        f"I/O binding, {name}": candidate(path, lambda runner: runner.bound_call(asked.one), asked, again, adjust)
        for name, adjust in OPTIONS.items()
    }


def other_graphs(net: Net, asked: Asked, folder: Path) -> dict[str, Candidate]:
    """The same net in other graphs, with I/O binding and memory from the heap."""
    found = {}
    for place, (name, write) in enumerate(GRAPHS.items()):
        path = folder / f"graph{place}.onnx"
        path.write_bytes(write(net))
        found[f"I/O binding, {name}"] = candidate(
            path, lambda runner: runner.bound_call(asked.one), asked, write(net), adjust=lambda _: None
        )
    return found


def other_files(exported: Path, asked: Asked, again: dict[str, bytes], folder: Path) -> dict[str, Candidate]:
    """The compressed files, and the exported one in ORT format, with I/O binding and memory from the heap."""
    paths = {
        f"{variant} file": (exported.with_stem(f"classifier-{variant}"), again[variant]) for variant in ("fp16", "int8")
    }
    for part in ("once", "twice"):
        (folder / part).mkdir()
    paths["ORT format"] = (convert(exported, folder / "once"), convert(exported, folder / "twice").read_bytes())
    return {
        f"I/O binding, {name}": candidate(path, lambda runner: runner.bound_call(asked.one), asked, content)
        for name, (path, content) in paths.items()
    }


def ask_exported(path: Path, rows: Floats) -> Asked:
    """Sequences, and the exported file's logits of each, alone."""
    session = open_session(path, threads=1)
    [source] = session.get_inputs()
    return Asked(rows, np.concatenate([session.run(None, {source.name: rows[[row]]})[0] for row in range(len(rows))]))
