"""Which file is recommended to which devices, and why no other."""

from dataclasses import replace
from typing import Any

from shared.judging.recommendation import Candidate, Target, choose, collect, object_to_source
from shared.kit.stage import StageError
from tests.report_inputs import ALLOWED_LOSS, PYTORCH_ACCURACY, REQUIRES, File, default_files, verdict

import pytest
from pydantic import ValidationError

WEB = "is not right in ONNX Runtime in WebAssembly (executed: m.onnx: crashes)"
APPLE = Target(name="iOS and macOS", format="coreml", ios=17, macos=14)
OTHERS = Target(name="Android", format="onnx", onnxruntime="1.17")
SOURCE = {"accuracy": PYTORCH_ACCURACY, "majority_class": "0", "majority_accuracy": 0.5, "collapsed": False}


def judged(
    files: dict[tuple[str, str], File],
    allowed: float = ALLOWED_LOSS,
    without: tuple[str, str] | None = None,
    source: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
) -> list[Candidate]:
    """The candidates of files with these figures.

    Args:
        files: Their figures.
        allowed: Accuracy that a file may lose.
        without: A kind of figures and a variant that lacks them.
        source: What is different about PyTorch's figures.
        facts: What is different about the facts of the variant `odd`.
    """
    metrics: dict[str, dict[str, dict[str, Any]]] = {"task": {"pytorch": {"fp32": SOURCE | (source or {})}}}
    for (file_format, variant), file in files.items():
        figures: dict[str, Any] = {
            "task": {"accuracy": round(PYTORCH_ACCURACY - file.accuracy_loss, 6)},
            "parity": verdict(file, allowed),
            "size": {"bytes": file.bytes, "requires": REQUIRES[file_format]},
        }
        if variant == "odd":
            figures["size"] |= facts or {}
        for kind, figure in figures.items():
            if without != (kind, variant):
                metrics.setdefault(kind, {}).setdefault(file_format, {})[variant] = figure
    task, parity, size = (metrics.get(kind, {}) for kind in ("task", "parity", "size"))
    return collect(task, parity, size, {})


def best_of(candidates: list[Candidate], target: Target = OTHERS) -> str | None:
    best = choose(candidates, target).best
    return best.variant if best else None


@pytest.mark.parametrize(
    ("executors", "web", "objection"),
    [
        (None, {"passed": True, "problems": []}, None),
        (None, {"passed": False, "problems": ["executed: m.onnx: crashes"]}, WEB),
        (None, {"left_out": "no node"}, None),
        (["onnxruntime"], {"passed": False, "problems": ["executed: m.onnx: crashes"]}, None),
        (["onnxruntime", "web"], {"passed": False, "problems": ["executed: m.onnx: crashes"]}, WEB),
        (["web"], {"left_out": "no node"}, "was not executed by ONNX Runtime in WebAssembly: no node"),
        (["web", "onnx_reference"], {"passed": True, "problems": []}, "was not executed by ONNX's evaluator"),
    ],
)
def test_a_target_says_which_executors_it_rests_on(executors: Any, web: dict[str, Any], objection: str | None) -> None:
    """By default on those for browsers that there are: what fails there is recommended to none."""
    [file] = [file for file in judged({("onnx", "odd"): File(1000)}) if file.format == "onnx"]
    file = replace(file, parity={**(file.parity or {}), "executor": "onnxruntime", "executors": {"web": web}})
    target = Target(name="Web", format="onnx", onnxruntime="1.17", executors=executors)
    assert target.objection(file) == objection


def test_an_executor_of_another_format_is_refused() -> None:
    with pytest.raises(ValidationError, match="'web' executes no coreml files; allowed executors: coreml, reference"):
        Target(name="iOS", format="coreml", ios=17, executors=["web"])


def test_the_smallest_file_that_is_fit_to_ship_is_recommended_for_each_class_of_devices() -> None:
    candidates = judged(default_files())
    onnx, coreml = choose(candidates, OTHERS), choose(candidates, APPLE)
    assert (onnx.best and onnx.best.file, coreml.best and coreml.best.file) == (
        "classifier-fp16.onnx", "classifier-palette4.mlpackage"
    )  # fmt: skip
    assert [(other.file.variant, other.objection) for other in onnx.refused] == [
        ("int8_static", "failed verification (graph: relative error 0.21 is above 0.05)"),
        ("int8", "is too lossy (accuracy_loss: 0.009 of the rows are lost against PyTorch; allowed: 0.005)"),
    ]
    assert [other.file.variant for other in coreml.refused] == ["sparse50_palette4"]
    assert [file.variant for file in coreml.larger] == ["int8", "fp16", "fp32"]


@pytest.mark.parametrize(("allowed", "best"), [(0.0, "fp32"), (0.0001, "fp16"), (0.0089, "fp16"), (0.009, "int8")])
def test_the_allowed_loss_decides(allowed: float, best: str) -> None:
    assert best_of(judged(default_files(), allowed)) == best


def test_of_equally_small_files_the_more_accurate_is_recommended() -> None:
    files = {("onnx", "a"): File(1000, 0.002), ("onnx", "b"): File(1000, -0.001), ("onnx", "c"): File(1000, 0.001)}
    assert best_of(judged(files)) == "b"


@pytest.mark.parametrize(
    ("kind", "objection"),
    [
        ("task", "was not executed"),
        ("parity", "was not verified"),
        ("size", "was not measured: its size is not known"),
    ],
)
def test_a_file_that_was_not_executed_verified_and_measured_is_never_recommended(kind: str, objection: str) -> None:
    files = {("onnx", "large"): File(2000), ("onnx", "small"): File(1000)}
    candidates = judged(files, without=(kind, "small"))
    assert best_of(candidates) == "large"
    assert [file.objection for file in candidates if file.variant == "small"] == [objection]


def test_where_no_file_qualifies_there_is_something_against_each() -> None:
    files = {("onnx", "a"): File(2000, problems=["values: far off"]), ("onnx", "b"): File(1000, 0.1)}
    choice = choose(judged(files), OTHERS)
    assert choice.best is None
    assert [other.file.variant for other in choice.refused] == ["b", "a"]
    assert choice.larger == []


def test_a_file_that_needs_ios_18_is_recommended_from_ios_18_on() -> None:
    files = {("coreml", "fp16"): File(2000), ("coreml", "odd"): File(1000)}
    candidates = judged(files, facts={"requires": {"specification_version": 9, "ios": 18, "macos": 15}})
    choice = choose(candidates, APPLE)
    assert choice.best is not None
    assert choice.best.variant == "fp16"
    assert [(other.file.variant, other.objection) for other in choice.refused] == [
        ("odd", "needs iOS 18; it has to run from iOS 17 on")
    ]
    assert best_of(candidates, Target(name="new", format="coreml", ios=18)) == "odd"
    lossy = judged(
        files | {("coreml", "odd"): File(1000, 0.009)},
        facts={"requires": {"specification_version": 9, "ios": 18, "macos": 15}},
    )
    [refusal] = choose(lossy, APPLE).refused
    assert refusal.objection == (
        "is too lossy (accuracy_loss: 0.009 of the rows are lost against PyTorch; allowed: 0.005) "
        "and needs iOS 18; it has to run from iOS 17 on"
    )
    assert best_of(candidates, Target(name="Mac", format="coreml", macos=14)) == "fp16"


@pytest.mark.parametrize(("floor", "best"), [("1.9", None), ("1.17", "large"), ("1.20", "odd"), ("1.20.1", "odd")])
def test_versions_of_onnx_runtime_compare_as_numbers(floor: str, best: str | None) -> None:
    files = {("onnx", "large"): File(2000), ("onnx", "odd"): File(1000)}
    candidates = judged(files, facts={"requires": REQUIRES["onnx"] | {"onnxruntime": "1.20"}})
    assert best_of(candidates, Target(name="any", format="onnx", onnxruntime=floor)) == best


@pytest.mark.parametrize(
    ("requires", "objection"),
    [
        ({}, "needs a version of ONNX Runtime that is not known (nobody looked)"),
        (
            {"opset": 20, "ir_version": 9, "contrib_ops": ["FusedThing"], "onnxruntime": None},
            "needs a version of ONNX Runtime that is not known (opset 20, ir version 9, contrib ops ['FusedThing'])",
        ),
    ],
)
def test_a_file_whose_needs_are_not_known_is_never_recommended(requires: dict[str, Any], objection: str) -> None:
    [refusal] = choose(judged({("onnx", "odd"): File(1000)}, facts={"requires": requires}), OTHERS).refused
    assert refusal.objection == objection


def test_a_file_whose_integer_sums_may_overflow_is_never_recommended() -> None:
    files = {("onnx", "large"): File(2000), ("onnx", "odd"): File(1000)}
    sums = {"largest_pair": 64_770, "largest_sum": 829_005}
    assert best_of(judged(files, facts={"integer_sums": sums | {"exact": True}})) == "odd"
    assert best_of(judged(files, facts={"integer_sums": sums | {"exact": False}})) == "large"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"collapsed": True}, "The trained net has collapsed: it names the same class, whatever it is shown."),
        (
            {"majority_class": "still", "majority_accuracy": 0.9699},
            (
                "The trained net is no better than always naming the commonest class, still: it is right on 96.99% of "
                "the test rows, and that would be on 96.99%."
            ),
        ),
    ],
)
def test_no_file_of_a_net_that_is_no_better_than_its_baseline_is_recommended(
    source: dict[str, Any], sentence: str
) -> None:
    assert object_to_source(SOURCE) is None
    assert object_to_source(SOURCE | source) == sentence
    candidates = judged(default_files(), source=source)
    assert best_of(candidates, APPLE) is None
    assert best_of(candidates, OTHERS) is None


def test_no_file_of_a_net_that_is_wrong_itself_is_recommended() -> None:
    """Each file computes what the net does: the answers that change with the padding are in all of them."""
    files = {"fp32": {"outcome": "fit", "problems": [], "losses": []}}
    net = {"fp32": {"outcome": "wrong", "problems": ["padding: it matters"], "losses": []}}
    sizes = {"onnx": {"fp32": {"bytes": 1000, "requires": REQUIRES["onnx"]}}}
    task = {"pytorch": {"fp32": SOURCE}, "onnx": {"fp32": {"accuracy": PYTORCH_ACCURACY}}}
    assert best_of(collect(task, {"onnx": files}, sizes, {})) == "fp32"
    candidates = collect(task, {"onnx": files, "pytorch": net}, sizes, {})
    [refused] = choose(candidates, OTHERS).refused
    assert refused.objection == "was made from a net that is wrong itself"
    assert best_of(candidates) is None


def test_a_loss_needs_pytorch_s_figures_and_a_format_a_name() -> None:
    with pytest.raises(StageError, match="PyTorch's figures lack 'pytorch'"):
        collect({"onnx": {"fp32": {"accuracy": 1.0}}}, {}, {}, {})
    with pytest.raises(StageError, match="PyTorch's figures lack 'collapsed'"):
        collect({"pytorch": {"fp32": {"accuracy": 1.0}}}, {}, {}, {})
    with pytest.raises(StageError, match="unknown format 'tflite'; known: pytorch, onnx, coreml"):
        collect({"pytorch": {"fp32": SOURCE}, "tflite": {"fp32": {}}}, {}, {}, {})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"name": "a", "format": "coreml"}, "says no oldest version; allowed: ios, macos"),
        ({"name": "a", "format": "onnx", "ios": 17}, "ios is no floor of onnx files; allowed: onnxruntime"),
        ({"name": "a", "format": "onnx", "onnxruntime": 1.2}, 'should be a version in quotes, such as "1.20"'),
        ({"name": "a", "format": "onnx", "onnxruntime": "new"}, "should be a version in quotes"),
        ({"name": "a", "format": "coreml", "ios": 0}, "greater than 0"),
        ({"name": "a", "format": "tflite", "ios": 17}, "should be 'onnx', 'coreml', 'coreai' or 'executorch'"),
        ({"name": "", "format": "coreml", "ios": 17}, "at least 1 character"),
    ],
)
def test_a_target_without_a_floor_of_its_format_is_refused(target: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Target.model_validate(target)
