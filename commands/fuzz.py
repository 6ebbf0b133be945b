"""Damage what the project reads, thousands of times, and count what it makes of it: docs/borders.md lists the borders.

Each mutant is a copy of something that the last run wrote, with one to four changes that a seed decides. It is read as
a stage reads it, in a process that is there for a few of them, with so much memory and so much time. Good ends are a
typed error of one line, the same result, and another result (of a file that says something else now). Bad ends are any
other exception, a hang and a crash; one of them, and this command fails. `--only BORDER:NUMBER` repeats one mutant.
"""

import argparse
import contextlib
import hashlib
import io
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "stages"))
sys.path.insert(0, str(PROJECT))

MEMORY = 6 * 2**30
"""Bytes of addresses that a process may use, of which the libraries take a quarter."""

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # before anything asks how much there is

import evaluate  # noqa: E402 - after the path to it
import predict  # noqa: E402
import prepare  # noqa: E402
import train  # noqa: E402
import verify  # noqa: E402
from commands import show_metrics  # noqa: E402
from commands.mutators import (  # noqa: E402
    Mutator,
    damage_archive,
    damage_bytes,
    damage_json,
    damage_protobuf,
)
from shared.conversion.export import ExportParams  # noqa: E402
from shared.coreml_reference import CoreMLReference, CoreMLReferenceError  # noqa: E402
from shared.coreml_reference.__main__ import read_arrays  # noqa: E402
from shared.data.sequences import SPLITS, Prepared, PreparedWriter, SplitArrays  # noqa: E402
from shared.execution.predictions import nest, read_others, read_predictions  # noqa: E402
from shared.execution.runtimes import open_runtime, stored_names  # noqa: E402
from shared.files.artifacts import find_artifacts  # noqa: E402
from shared.files.formats import REFERENCE  # noqa: E402
from shared.files.inspection import inspect_file  # noqa: E402
from shared.files.quiet import import_coremltools  # noqa: E402
from shared.judging.limits import VerifyParams  # noqa: E402
from shared.kit.params import read_params  # noqa: E402
from shared.kit.stage import StageError, one_line  # noqa: E402
from shared.kit.text import printable  # noqa: E402
from shared.network.architectures import ArchitectureParams  # noqa: E402
from shared.training.devices import ALONE  # noqa: E402
from shared.training.resume import ResumeFile  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from tabulate import tabulate  # noqa: E402
from tqdm import tqdm  # noqa: E402

ROWS = 6  # of each split of the data that mutants are run on
EACH_PROCESS = 25
LONGEST_LINE = 2000
OUTCOMES = ("clean error", "accepted same", "accepted other", "unexpected", "hang", "crash")
BAD = OUTCOMES[3:]
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@dataclass(frozen=True)
class Target:
    """A file that is damaged, and who reads it.

    Attributes:
        border: The border that it belongs to.
        pristine: The file, or the folder that holds it, in its sound state.
        damaged: The file's path in that folder; empty for a file.
        mutate: What changes its content.
        read: What the project does with the file or the folder; equal results are equal.
        place: Whether it may also become a folder, a pipe, a link or another thing that is no such file.
    """

    border: str
    pristine: Path
    damaged: str
    mutate: Mutator
    read: Callable[[Path], object]
    place: bool = True


@dataclass(frozen=True)
class Mutant:
    """One damaged copy: the number decides which, and how."""

    target: Target
    border_number: int
    seed: int

    @property
    def name(self) -> str:
        """As `--only` takes it."""
        return f"{self.target.border}:{self.border_number}"

    def make(self, folder: Path) -> Path:
        """Write it below a folder; return what is to be read."""
        source = Random(f"{self.seed} {self.name}")  # noqa: S311 - to be repeated, not to be secret
        target = self.target
        path = folder / target.pristine.name
        if target.pristine.is_dir():
            shutil.copytree(target.pristine, path, symlinks=True)
        else:
            shutil.copy(target.pristine, path)
        file = path / target.damaged if target.damaged else path
        if target.place and source.random() < 0.03:
            misplace(file, source)
        else:
            content = target.mutate(file.read_bytes(), source)
            file.unlink()
            file.write_bytes(content)
        return path


def misplace(file: Path, source: Random) -> None:
    """Put something there that is no such file."""
    file.unlink()
    kind = source.randrange(7)
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        os.mkfifo(file)
    elif kind == 2:
        file.symlink_to("/dev/zero")
    elif kind == 3:
        file.symlink_to(file.name)
    elif kind == 4:
        file.symlink_to("/etc/hostname")
    elif kind == 5:
        with file.open("wb") as stream:
            stream.truncate(20 * 2**30)


# --- What the project makes of a file ---


@dataclass(frozen=True)
class Data:
    """A little of a run's data, in a folder of its own."""

    folder: Path
    prepared: Prepared
    rows: SplitArrays = field(repr=False)


def few_rows(prepared: Prepared, folder: Path) -> Data:
    """Write the first rows of each split as a prepared folder."""
    schema = prepared.schema
    splits = {split: prepared.split(split) for split in SPLITS}
    counts = {split: min(ROWS, schema.rows[split]) for split in SPLITS}
    with PreparedWriter(folder, counts, schema.time_steps, len(schema.features), ragged=schema.ragged) as writer:
        for split, arrays in splits.items():
            rows = slice(counts[split])
            lengths = np.full(counts[split], schema.time_steps, np.int32)
            writer.append(
                split,
                arrays.sequences[rows],
                arrays.labels[rows],
                lengths if arrays.lengths is None else arrays.lengths[rows],
            )
    class_rows = {
        split: np.bincount(arrays.labels[: counts[split]], minlength=len(schema.classes)).tolist()
        for split, arrays in splits.items()
    }
    writer.finish(schema.model_copy(update={"rows": counts, "class_rows": class_rows}))
    small = Prepared(folder)
    return Data(folder, small, small.split("test"))


def run_model(data: Data, path: Path) -> object:
    """Open a model file as `predict` does, run it, and take its facts as `benchmark` does."""
    runtime = open_runtime(path)
    size = min(ROWS, runtime.interface.largest_batch or ROWS)
    try:
        logits = np.concatenate(list(predict.batches(runtime, (data.rows.sequences, data.rows.lengths), size)))
    except CoreMLReferenceError as error:
        raise StageError(f"{path}: {one_line(error)}") from None
    except Exception as error:  # what a runtime raises has no common base: `predict.execute` says so too
        if path.suffix == ".mlpackage" and not isinstance(error, ValueError):
            raise
        raise StageError(f"{path}: {one_line(error)}") from None
    return logits.tobytes(), runtime.interface, inspect_file(path)


def run_package(path: Path) -> object:
    """Run a package on ones and halves."""
    model = CoreMLReference(path, loop_passes=500, loop_seconds=2)
    inputs = {name: np.full(feature.shape, 1.5) for name, feature in model.inputs.items()}
    return {name: np.asarray(value).tobytes() for name, value in model.predict(inputs).items()}


def read_prepared(path: Path) -> object:
    """Read all of a prepared folder."""
    prepared = Prepared(path)
    arrays = [array for split in SPLITS for array in vars(prepared.split(split)).values() if array is not None]
    return prepared.schema, [array.tobytes() for array in arrays]


def judge_predictions(
    data: Data, files: dict[tuple[str, str], Path], names: ExportParams, params: VerifyParams, path: Path
) -> object:
    """Evaluate and verify all predictions; what is inside the files is read of those given."""
    predictions = list(read_predictions(path))
    figures, *_ = evaluate.evaluate(predictions, data.rows.labels, data.prepared.schema.classes)
    bench = verify.set_up(data.prepared, files[REFERENCE], predictions, nest(figures), names, params)
    found, _ = verify.verify_all(predictions, files, bench, read_others(path))
    return repr(figures), repr(found)


def print_figures(path: Path) -> object:
    """Print the table of all metrics."""
    with contextlib.chdir(path.parent), contextlib.redirect_stdout(io.StringIO()) as printed:
        show_metrics.main()
    return printed.getvalue()


def read_sections(path: Path) -> object:
    """Read what `train` and `prepare` read of params.yaml."""
    with contextlib.chdir(path.parent):
        return [
            read_params("train", train.Params),
            read_params("architecture", ArchitectureParams),
            read_params("prepare", prepare.Params),
        ]


def prepare_table(params: prepare.Params, path: Path) -> object:
    """Prepare a table."""
    folder = path.with_name("prepared")
    prepare.prepare(path, folder, params)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def go_on(data: Data, params: train.Params, architecture: Any, path: Path) -> object:
    """Go on with a training from the state that an interrupted one left."""
    resume = ResumeFile(path, {"all": "equal"}, 1e9, ALONE)
    with contextlib.redirect_stderr(io.StringIO()):
        model, epochs = train.train(data.prepared, params, architecture, ALONE, resume)
    return [tensor.tolist() for tensor in model.state_dict().values()], repr(epochs)


def read_names(path: Path) -> object:
    """Read names from the metadata of an exported file."""
    return stored_names(path, {"classes": path.read_text(encoding="utf-8", errors="surrogateescape")}, "classes")


# --- What is damaged ---


def loops_and_branches(path: Path) -> Path:
    """Save a package with what no exported classifier has: a branch, a loop that never ends on zeros, a list."""
    ct = import_coremltools()
    from coremltools.converters.mil import Builder as mb  # noqa: N813

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 3))], opset_version=ct.target.iOS17)  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        def grow() -> Any:
            return mb.while_loop(
                _cond=lambda y: mb.less(x=mb.reduce_sum(x=y), y=np.float32(100)),
                _body=lambda y: mb.mul(x=y, y=np.float32(2)),
                loop_vars=(x,),
            )

        small = mb.less(x=mb.reduce_sum(x=x), y=np.float32(50))
        grown = mb.cond(pred=small, _true_fn=grow, _false_fn=lambda: mb.add(x=x, y=np.float32(1)))
        parts = mb.list_write(ls=mb.make_list(init_length=2, elem_shape=(2, 3)), index=1, value=grown)
        table, codes = np.array([1, 2], np.float32), np.array([0b101101], np.uint8)
        weight = mb.constexpr_lut_to_dense(lut=table, indices=codes, shape=np.array([3, 2], np.uint32))
        return mb.matmul(x=mb.list_read(ls=parts, index=1), y=weight)

    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def of_inner(mutate: Mutator) -> Mutator:
    """A mutator of a resume file's content, whose hash stays right."""
    size = hashlib.sha256().digest_size

    def damage(content: bytes, source: Random) -> bytes:
        changed = mutate(content[size:], source)
        return hashlib.sha256(changed).digest() + changed

    return damage


def find_targets(run: Path, folder: Path) -> Iterator[Target]:
    """Everything that is damaged: the files of a run, and some that are made here.

    Args:
        run: The project's folder, reproduced.
        folder: Where this may write.
    """
    import_coremltools()
    from coremltools.proto.Model_pb2 import Model
    from onnx import ModelProto

    data = few_rows(Prepared(run / "data" / "prepared"), folder / "prepared")
    run_one = lambda path: run_model(data, path)  # noqa: E731
    for path in find_artifacts(run / "models" / "pytorch").values():
        yield Target("checkpoint", path, "", damage_archive, run_one)
    for path in find_artifacts(run / "models" / "onnx").values():
        yield Target("onnx", path, "", damage_protobuf(ModelProto), run_one)
    packages = list(find_artifacts(run / "models" / "coreml").values())
    for path in packages:
        yield Target("mlpackage", path, MODEL, damage_protobuf(Model), run_one)
    odd = loops_and_branches(folder / "odd.mlpackage")
    for _ in range(2):
        yield Target("mlpackage", odd, MODEL, damage_protobuf(Model), run_package)
    for path in packages:
        yield Target("weights", path, WEIGHTS, damage_bytes, run_one)
        yield Target("manifest", path, "Manifest.json", damage_json, run_one)

    classes = folder / "classes.json"
    classes.write_text('["0", "1", "2"]')
    yield Target("metadata", classes, "", damage_json, read_names, place=False)

    for file in sorted(data.folder.iterdir()):
        yield Target(
            "prepared", data.folder, file.name, damage_json if file.suffix == ".json" else damage_bytes, read_prepared
        )

    predictions = folder / "predictions"
    for file in sorted((run / "data" / "predictions").rglob("*.*")):
        copy = predictions / file.relative_to(run / "data" / "predictions")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".json":
            shutil.copy(file, copy)
        else:
            np.save(copy, np.load(file, mmap_mode="r")[:ROWS])
    with contextlib.chdir(run):
        names, limits = read_params("export", ExportParams), read_params("verify", VerifyParams)
    files = {  # one variant and what it is judged by: all of them would take a second a case
        REFERENCE: run / "models/pytorch/classifier.pt",
        ("onnx", "fp32"): run / "models/onnx/classifier-fp32.onnx",
        ("onnx", "fp16"): run / "models/onnx/classifier-fp16.onnx",
    }
    judge = lambda path: judge_predictions(data, files, names, limits, path)  # noqa: E731
    for file in sorted(predictions.rglob("*.*")):
        mutate = damage_json if file.suffix == ".json" else damage_bytes
        yield Target("predictions", predictions, str(file.relative_to(predictions)), mutate, judge)

    for name in ("evaluate", "verify", "size", "benchmark"):
        yield Target("metrics", run / "metrics", f"{name}.json", damage_json, print_figures)
    yield Target("params.yaml", run / "params.yaml", "", damage_bytes, read_sections)

    with contextlib.chdir(run):
        params = read_params("prepare", prepare.Params)
        training = read_params("train", train.Params).model_copy(update={"epochs": 2, "early_stopping": None})
        architecture = read_params("architecture", ArchitectureParams)
    table = folder / "table.csv"
    table.write_text("".join((run / "data" / "sequences.csv").read_text().splitlines(keepends=True)[:60]))
    params = params.model_copy(update={"train_size": 0.5, "validation_size": 0.2})
    yield Target("table", table, "", damage_bytes, lambda path: prepare_table(params, path))

    state = folder / ".classifier.resume"
    train.train(data.prepared, training, architecture, ALONE, ResumeFile(state, {"all": "equal"}, 0, ALONE))
    resumed = lambda path: go_on(data, training, architecture, path)  # noqa: E731
    yield Target("resume file", state, "", of_inner(damage_archive), resumed)
    yield Target("resume file", state, "", damage_bytes, resumed)

    inputs = folder / "inputs.npz"
    np.savez(inputs, sequence=np.zeros((2, 3), np.float32))
    yield Target("inputs", inputs, "", damage_archive, lambda path: [a.tobytes() for a in read_arrays(path).values()])


def plan(targets: Iterable[Target], count: int, seed: int) -> list[Mutant]:
    """So many mutants, equally many of each border, and of each file of a border."""
    borders: dict[str, list[Target]] = {}
    for target in targets:
        borders.setdefault(target.border, []).append(target)
    each = -(-count // len(borders))
    return [Mutant(files[number % len(files)], number, seed) for files in borders.values() for number in range(each)]


# --- Running ---


@dataclass(frozen=True)
class Ending:
    """How the reading of a mutant ended."""

    outcome: str
    detail: str = ""


def try_mutant(mutant: Mutant, expected: object) -> Ending:
    """Make one mutant and read it."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = mutant.make(Path(folder))
        try:
            found = mutant.target.read(path)
        except (StageError, CoreMLReferenceError) as error:
            line = printable(str(error))
            if "\n" in str(error) or len(line) > LONGEST_LINE:
                return Ending(
                    "unexpected", f"an error of {len(line)} characters, {str(error).count(chr(10))} breaks: {line}"
                )
            return Ending("clean error", line)
        except Exception:
            return Ending("unexpected", traceback.format_exc())
    return Ending("accepted same" if found == expected else "accepted other")


def read_pristine(target: Target) -> object:
    """What the sound file gives; whatever is wrong with that is a fault of the run, not of the damage."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / target.pristine.name
        (shutil.copytree if target.pristine.is_dir() else shutil.copy)(target.pristine, path)
        return target.read(path)


def work(mutants: list[Mutant], expected: list[object], results: Connection) -> None:
    """In a process of its own: read some mutants, and say of each how it ended."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    for mutant, sound in zip(mutants, expected, strict=True):
        results.send(try_mutant(mutant, sound))
    results.close()
    os._exit(0)


@dataclass
class Worker:
    """A process, the mutants that it has not answered yet, and since when it reads the first of them."""

    process: Any
    results: Connection
    waiting: deque[Mutant]
    since: float


def fuzz(mutants: list[Mutant], processes: int, seconds: float) -> Iterator[tuple[Mutant, Ending]]:
    """Read all mutants, each for so long at most."""
    sound = {id(target): read_pristine(target) for target in {id(m.target): m.target for m in mutants}.values()}
    jobs = deque(mutants[start : start + EACH_PROCESS] for start in range(0, len(mutants), EACH_PROCESS))
    context = get_context("fork")
    workers: dict[Connection, Worker] = {}
    while jobs or workers:
        while jobs and len(workers) < processes:
            job = jobs.popleft()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(job, [sound[id(m.target)] for m in job], sender), daemon=True)
            process.start()
            sender.close()
            workers[receiver] = Worker(process, receiver, deque(job), time.monotonic())
        for ready in wait(list(workers), timeout=0.2):
            assert isinstance(ready, Connection)
            worker = workers[ready]
            try:
                ending = ready.recv()
            except EOFError:
                worker.process.join()
                del workers[ready]
                if worker.waiting:
                    yield worker.waiting.popleft(), Ending("crash", f"exit code {worker.process.exitcode}")
                    jobs.appendleft(list(worker.waiting)) if worker.waiting else None
                continue
            yield worker.waiting.popleft(), ending
            worker.since = time.monotonic()
        for ready, worker in list(workers.items()):
            if worker.waiting and time.monotonic() - worker.since > seconds:
                worker.process.kill()
                worker.process.join()
                del workers[ready]
                yield worker.waiting.popleft(), Ending("hang", f"more than {seconds:g} seconds")
                jobs.appendleft(list(worker.waiting)) if worker.waiting else None


def table_of(counts: dict[str, Counter[str]]) -> str:
    """A line for each border."""
    rows = [(border, *(found[outcome] for outcome in OUTCOMES)) for border, found in counts.items()]
    totals = ("all", *(sum(found[outcome] for found in counts.values()) for outcome in OUTCOMES))
    return str(tabulate([*rows, totals], headers=("border", *OUTCOMES), tablefmt="simple"))


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=PROJECT, help="a reproduced project (default: this one)")
    parser.add_argument("--mutants", type=int, default=12_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="the longest for each (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at a time (default: %(default)s)")
    parser.add_argument("--borders", nargs="*", help="only these")
    parser.add_argument("--only", metavar="BORDER:NUMBER", help="one mutant, in this process, with what it raises")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Damage and read; print the table, and what is wrong; return the exit code."""
    args = parse_args(arguments)
    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = {}
    bad: list[tuple[Mutant, Ending]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                targets = list(find_targets(args.run, Path(folder)))
        except (StageError, OSError) as error:
            print(f"fuzz: error: {one_line(error)} (what is damaged is what `dvc repro` has written)", file=sys.stderr)
            return 1
        mutants = plan(targets, args.mutants, args.seed)
        if args.only:
            mutant = next((one for one in plan(targets, 10**6, args.seed) if one.name == args.only), None)
            if mutant is None:
                borders = ", ".join(sorted({target.border for target in targets}))
                print(f"fuzz: error: --only {args.only!r}: expected BORDER:NUMBER; borders: {borders}", file=sys.stderr)
                return 1
            print(
                mutant.target.pristine,
                mutant.target.damaged,
                try_mutant(mutant, read_pristine(mutant.target)),
                sep="\n",
            )
            return 0
        mutants = [one for one in mutants if not args.borders or one.target.border in args.borders]
        Random(args.seed).shuffle(mutants)  # noqa: S311 - dear ones and cheap ones mixed
        for mutant, ending in tqdm(fuzz(mutants, args.processes, args.seconds), total=len(mutants), disable=None):
            counts.setdefault(mutant.target.border, Counter())[ending.outcome] += 1
            if ending.outcome in BAD:
                bad.append((mutant, ending))
    print(table_of(dict(sorted(counts.items()))))
    for mutant, ending in sorted(bad, key=lambda one: one[0].name)[:40]:
        last = ending.detail.strip().splitlines()[-1]
        print(f"{mutant.name} ({mutant.target.pristine.name} {mutant.target.damaged}): {ending.outcome}: {last[:200]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
