"""Pytest plug-in: Apple's own coremltools tests on any OS, with Core ML's runtime answered by our evaluator.

Away from a Mac the tests in coremltools' wheel convert a model and return without running it. This plug-in puts
`ReferenceProxy` where coremltools looks for its binding to Core ML, and says that this is a Mac: the same tests then
load each *saved* package, predict and compare. Nothing in the tests is changed, with these exceptions:

- a tolerance looser than `TOLERANCE` is replaced by it (Apple's fp16 tolerance is 0.5);
- `pytest.xfail(...)` inside a test does not end it: what fails in Apple's runtime may well pass here;
- neural network (pre-2021 format) cases are left out.

A case counts as passed only if a prediction really ran. Each case writes one JSON line to `--apple-results`.
"""

import contextlib
import functools
import gc
import importlib.util
import inspect
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import tomllib
import types
import unittest.mock
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOLERANCE = {"fp32": 1e-4, "fp16": 5e-3}
"""The loosest comparison allowed, absolute and relative, by the precision that the saved program declares."""

OWN_TOLERANCE = tomllib.loads((Path(__file__).parent / "known.toml").read_text())["own_tolerance"]
"""The cases whose expected values are themselves rougher than `TOLERANCE`; they keep Apple's tolerance."""

MACOS = (15, 5)
SECONDS_PER_CASE = 120
CASES_BETWEEN_FREEZES = 50

# Read by coremltools' tests when they are imported.
os.environ.update(PYMIL_TEST_TARGETS="mlprogram", INCLUDE_MIL_FP32_UNIT_TESTS="1", RUN_BACKWARD_COMPATIBILITY="1")


@dataclass
class Case:
    """What the running test has done so far."""

    models: int = 0
    predictions: int = 0
    comparisons: int = 0
    precision: str = ""
    own_tolerance: bool = False
    expected_failure: str = ""
    ops: set[str] = field(default_factory=set)


case = Case()
serial = itertools.count(1)
option: Any = None  # pytest's command line


# Core ML, as coremltools sees it


class ReferenceProxy:
    """Stands in for `coremltools.libcoremlpython._MLModelProxy`: loads a saved package and predicts."""

    def __init__(self, path: str, compute_units: str, function_name: str, hints: Any, asset: Any) -> None:
        self.path = Path(path)
        self.function_name = function_name or None
        case.models += 1

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return 9  # iOS 18

    @functools.cached_property
    def reference(self) -> Any:
        from shared.coreml_reference import CoreMLReference

        from coremltools.models.utils import load_spec

        if not self.path.is_dir():
            pytest.skip("a neural network, not an ML Program")
        spec = load_spec(str(self.path))
        if spec.WhichOneof("Type") != "mlProgram":
            pytest.skip(f"a {spec.WhichOneof('Type')}, not an ML Program")
        values = [value for function in spec.mlProgram.functions.values() for value in function.inputs]
        self.ops = set()
        for operation in operations(spec.mlProgram):
            self.ops.add(operation.type)
            values += operation.outputs
        self.precision = "fp16" if any(is_fp16(value.type) for value in values) else "fp32"
        return CoreMLReference(self.path, function_name=self.function_name)

    def predict(self, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
        with as_core_ml_reports():
            reference = self.reference
            case.ops |= self.ops
            case.precision = self.precision
            outputs: dict[str, Any] = reference.predict(data, state)
        case.predictions += 1
        return outputs

    def batchPredict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:  # noqa: N802 (Core ML's name)
        return [self.predict(data) for data in batch]

    def newState(self) -> Any:  # noqa: N802 (Core ML's name)
        with as_core_ml_reports():
            return self.reference.make_state()

    def get_compiled_model_path(self) -> str:
        return str(self.path)


@contextlib.contextmanager
def as_core_ml_reports() -> Iterator[None]:
    """Raise what the evaluator raises as coremltools' binding to Core ML would, the error itself as its cause."""
    from shared.coreml_reference import CoreMLReferenceError

    try:
        yield
    except CoreMLReferenceError as error:
        raise RuntimeError(f"Unable to compute the prediction using ML Program. {error}") from error


def operations(program: Any) -> Iterator[Any]:
    """Every operation of a saved program, nested blocks included."""
    for function in program.functions.values():
        blocks = list(function.block_specializations.values())
        while blocks:
            for operation in blocks.pop().operations:
                yield operation
                blocks.extend(operation.blocks)


def is_fp16(value: Any) -> bool:
    from coremltools import proto

    return bool(value.tensorType.dataType == proto.MIL_pb2.DataType.FLOAT16)


# What makes the tests run and compare


def capped(compare: Callable[..., Any]) -> Callable[..., Any]:
    """`compare` with `rtol` and `atol` no looser than `TOLERANCE` once the running test has predicted.

    Where the program declares fp16 values, a positive `atol` becomes that of fp16: some of Apple's tests hold such
    values to an fp32 tolerance, which numbers rounded to fp16 cannot meet.
    """
    signature = inspect.signature(compare)

    @functools.wraps(compare)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        case.comparisons += bool(case.predictions)
        if not case.predictions or case.own_tolerance:
            return compare(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        tolerance = TOLERANCE[case.precision]
        of_floats = case.precision == "fp16" and bound.arguments["atol"] > 0
        for name in ("rtol", "atol"):
            bound.arguments[name] = tolerance if of_floats else min(bound.arguments[name], tolerance)
        return compare(*bound.args, **bound.kwargs)

    return wrapper


def counted(compare: Callable[..., Any]) -> Callable[..., Any]:
    """`compare`, counted as a comparison once the running test has predicted."""

    @functools.wraps(compare)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        case.comparisons += bool(case.predictions)
        return compare(*args, **kwargs)

    return wrapper


def note_expected_failure(reason: str = "") -> None:
    """Stands in for `pytest.xfail` inside a test: go on, and remember the reason in case it does fail."""
    case.expected_failure = reason


class Absent(types.ModuleType):
    """A package that is not installed: a test that reaches for it is skipped, the others in its file run."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return pytest.skip(f"needs {self.__name__}")


def become_a_mac() -> None:
    """Make coremltools and its tests believe in an Apple-silicon Mac whose Core ML is `ReferenceProxy`."""
    import platform

    import coremltools._deps
    import coremltools.models._compiled_model
    import coremltools.models.model
    import coremltools.models.utils
    import torch  # noqa: F401 (asks for the platform, and must get the true answer)

    coremltools._deps._IS_MACOS = True
    for module in (coremltools.models.utils, coremltools.models.model, coremltools.models._compiled_model):
        module._is_macos = lambda: True
        module._macos_version = lambda: MACOS
    coremltools.models.model._MLModelProxy = ReferenceProxy
    coremltools.models._compiled_model._MLModelProxy = ReferenceProxy
    platform.machine = lambda: "arm64"

    np.testing.assert_allclose = capped(np.testing.assert_allclose)
    np.isclose = capped(np.isclose)
    np.allclose = capped(np.allclose)
    for name in ("assert_equal", "assert_array_equal", "assert_almost_equal", "assert_array_almost_equal"):
        setattr(np.testing, name, counted(getattr(np.testing, name)))
    vars(pytest)["xfail"] = note_expected_failure

    sys.modules.setdefault("mock", unittest.mock)
    if not coremltools._deps._HAS_TORCH_VISION:
        sys.modules["torchvision"] = Absent("torchvision")
    if not coremltools._deps._HAS_TF_2:
        import coremltools.converters.mil.testing_reqs

        coremltools._deps._HAS_TF_2 = True  # most tests marked so never touch it
        sys.modules["tensorflow"] = Absent("tensorflow")
    if importlib.util.find_spec("parameterized") is None:
        stand_in = types.ModuleType("parameterized")
        skip = pytest.mark.skip(reason="needs parameterized")
        vars(stand_in)["parameterized"] = types.SimpleNamespace(expand=lambda _: skip)
        sys.modules["parameterized"] = stand_in


# Pytest's hooks


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("apple")
    group.addoption("--apple-results", help="the JSON-lines file that each case is written to")
    group.addoption("--apple-match", help="keep the cases whose id has a match of this regular expression")
    group.addoption("--apple-precision", choices=["fp32", "fp16"], help="keep the cases of this precision")
    group.addoption("--apple-sample", type=int, help="keep this many random cases")
    group.addoption("--apple-per-test", type=int, help="keep this many random cases of each test function")
    group.addoption("--apple-seed", type=int, default=0)
    group.addoption("--apple-shard", default="0/1", help="i/n: every n-th case, from the i-th on")


def pytest_configure(config: pytest.Config) -> None:
    global option
    option = config.option
    become_a_mac()
    scratch = tempfile.mkdtemp(prefix="apple-tests-")
    tempfile.tempdir = scratch
    config.add_cleanup(lambda: shutil.rmtree(scratch, ignore_errors=True))


def backend_of(item: pytest.Item) -> tuple[str, str]:
    """The backend and precision among a case's parameters, or empty strings."""
    for value in getattr(getattr(item, "callspec", None), "params", {}).values():
        if hasattr(value, "backend") and hasattr(value, "precision"):
            return value.backend, value.precision
        for part in (value, *value) if isinstance(value, tuple) else (value,):
            if isinstance(part, str) and part in ("neuralnetwork", "mlprogram"):
                precision = next((other for other in value if other in TOLERANCE), "") if part is not value else ""
                return part, precision
    return "", ""


def short_id(item: pytest.Item | pytest.CollectReport) -> str:
    return re.sub(r"^.*coremltools/converters/mil/", "", item.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed and option.apple_shard.startswith("0/"):
        error = re.findall(r"^E +(.*)", str(report.longrepr), re.MULTILINE)
        write({"id": short_id(report), "status": "failed", "reason": f"cannot be imported: {error[-1]}"})


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    random_source = random.Random(option.apple_seed)
    done = finished(option.apple_results)

    kept = [item for item in items if backend_of(item)[0] != "neuralnetwork"]
    if option.apple_match:
        kept = [item for item in kept if re.search(option.apple_match, short_id(item))]
    if option.apple_precision:
        kept = [item for item in kept if backend_of(item)[1] in ("", option.apple_precision)]
    if option.apple_per_test:
        tests: dict[str, list[pytest.Item]] = {}
        for item in kept:
            tests.setdefault(item.nodeid.split("[")[0], []).append(item)
        samples = (random_source.sample(cases, min(option.apple_per_test, len(cases))) for cases in tests.values())
        chosen = {item for sample in samples for item in sample}
        kept = [item for item in kept if item in chosen]
    if option.apple_sample is not None and option.apple_sample < len(kept):
        chosen = set(random_source.sample(kept, option.apple_sample))
        kept = [item for item in kept if item in chosen]
    index, count = map(int, option.apple_shard.split("/"))
    kept = [item for item in kept[index::count] if short_id(item) not in done]
    write({"total": len(kept)})

    chosen = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = kept


def pytest_collection_finish() -> None:
    if isinstance(sys.modules.get("tensorflow"), Absent):
        del sys.modules["tensorflow"]  # torch.export looks whether there is one
    set_garbage_aside()


def set_garbage_aside() -> None:
    """Keep what lives now out of later collections.

    Every conversion ends in `gc.collect()`, which takes a second as long as it walks all the collected tests; and
    coremltools keeps the symbols and the types of every program that it ever made.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global case
    case = Case(own_tolerance=any(re.search(entry["id"], short_id(item)) for entry in OWN_TOLERANCE))
    write({"id": short_id(item), "status": "started"})
    result = yield
    if not next(serial) % CASES_BETWEEN_FREEZES:
        set_garbage_aside()
    scratch = Path(tempfile.gettempdir())
    for left_over in scratch.iterdir():
        shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink(missing_ok=True)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    def give_up(*_: Any) -> None:
        raise TimeoutError(f"not done after {SECONDS_PER_CASE} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS_PER_CASE)
    try:
        yield
    finally:
        signal.alarm(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or (report.when == "setup" and not report.passed):
        status, reason = verdict(report, call)
        record = {"id": short_id(item), "status": status, "reason": reason, "seconds": round(call.duration, 3)}
        if case.predictions:
            record |= {"predictions": case.predictions, "comparisons": case.comparisons, "ops": sorted(case.ops)}
        write(record)
    return report


def verdict(report: Any, call: pytest.CallInfo[None]) -> tuple[str, str]:
    """Status and reason of a finished case."""
    error = call.excinfo.value if call.excinfo else None
    if report.passed and case.predictions:
        return "passed", ""
    if report.passed:
        return "not executed", "converts, and does not predict" if case.models else "converts no model"
    if report.skipped and not hasattr(report, "wasxfail"):
        return "skipped", str(getattr(error, "msg", None) or report.longrepr[-1]).removeprefix("Skipped: ")
    expected = case.expected_failure or getattr(report, "wasxfail", "")
    if expected or report.skipped:
        return "skipped", f"Apple expects it to fail: {expected.removeprefix('reason: ')}"
    while isinstance(error, RuntimeError) and error.__cause__:
        error = error.__cause__
    status = "unsupported" if type(error).__name__ == "UnsupportedError" else "failed"
    message = re.sub(r"/\S*\.mlpackage(/\S*)?: ", "", " ".join(str(error).split()))
    return status, f"{type(error).__name__}: {message}"[:500]


def write(record: dict[str, Any]) -> None:
    with Path(option.apple_results).open("a") as file:
        file.write(json.dumps(record) + "\n")


def finished(results: str) -> set[str]:
    """Ids that the results file already holds: a run resumes behind the case that ended its process."""
    path = Path(results)
    lines = path.read_text().splitlines() if path.exists() else []
    return {record["id"] for record in map(json.loads, lines) if "id" in record}
