"""Nets as engineers write them, through both exporters and all compressors: they compute what PyTorch does, or say why.

`docs/nets.md` is the table of what is found here: `UPDATE=1 pytest tests/test_nets.py` rewrites it, in the columns of
formats whose packages are installed; ExecuTorch's with `EXECUTORCH_TESTS=1` as well. `make test-all` runs all nets,
`make test` a sixth.
"""

import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import compress_coreml
import compress_onnx
import export_coreml
import export_executorch
import export_onnx
from shared.conversion.coreai_program import convert, described
from shared.data.sequences import Prepared, SplitArrays
from shared.execution.one_row import run_one_row
from shared.execution.runtimes import Floats, open_runtime
from shared.files.aimodel import why_missing
from shared.files.inspection import inspect_file
from shared.kit.stage import StageError
from shared.network.model import Checkpoint, SequenceClassifier
from tests import nets
from tests.core_ai_assets import logits_of
from tests.support import ALL_TESTS, EXPORT_NAMES, EXPORT_PARAMS, ROOT, write_prepared

import numpy as np
import onnx
import pytest
import torch
from filelock import FileLock
from onnx import numpy_helper

DOCUMENT = ROOT / "docs" / "nets.md"
COMPRESS = compress_onnx.Params.model_validate({"variants": ["fp16"], "minimum_share": 0.5, "calibration_rows": 64})
BOUNDS = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.15, "int8_weights": 0.1, "int8_static": 1.0}
"""The largest error of a logit, relative to their standard deviation: of untrained nets with sixteen channels."""
ONE_LINE = re.compile(
    r"(ONNX|Core ML|Core AI|ExecuTorch) cannot carry (.+) of (network[\w.]*): .+; instead: .+; "
    r"or leave \1 out: export.formats: .+"
)
needs_core_ai = pytest.mark.skipif(
    not ("CI" in os.environ or why_missing("coreai_torch") is None), reason="Core AI's packages are not installed here"
)
needs_executorch = pytest.mark.skipif(
    not os.environ.get("EXECUTORCH_TESTS"), reason="`make test-executorch` runs it: ExecuTorch is not installed here"
)
BATCHES = (1, 2, 15, 16, 32)
"""Up to the largest that ExecuTorch's programs are for: its exporter may bound the batch by 15 without a word."""
Carry = Callable[[SequenceClassifier, type[nets.Net], Prepared, Path], dict[str, str]]
IN_EVERY_RUN = 6
"""Of so many nets, one is in every `make test`; the others take minutes."""
ALL = ALL_TESTS or bool({"EXECUTORCH_TESTS", "UPDATE"} & os.environ.keys())
every_net = pytest.mark.parametrize(
    "title",
    [
        pytest.param(title, marks=pytest.mark.skipif(not (ALL or number % IN_EVERY_RUN == 0), reason="`make test-all`"))
        for number, title in enumerate(nets.NETS)
    ],
)


def sequences(net: type[nets.Net], rows: int) -> Floats:
    rng = np.random.default_rng(rows)
    values = rng.normal(size=(rows, nets.TIME_STEPS, nets.FEATURES)).astype(np.float32)
    if net.tokens:
        values[..., 0] = rng.integers(0, nets.TOKENS, values.shape[:2])
    return values


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Prepared]:
    """Rows of numbers, and rows whose first feature is a token."""
    found = {}
    for tokens in (False, True):
        net = next(net for net in nets.NETS.values() if net.tokens == tokens)
        folder = tmp_path_factory.mktemp("prepared") / "data"
        splits: dict[Any, SplitArrays] = {
            split: SplitArrays(sequences(net, rows), np.zeros(rows, np.int64), None)
            for split, rows in {"train": 64, "validation": 1, "test": 5}.items()
        }
        write_prepared(folder, splits, ["x", "y"], ["on", "off", "none"])
        found[tokens] = Prepared(folder)
    return found


def error(path: Path, model: SequenceClassifier, net: type[nets.Net], batches: Sequence[int] = (1, 2, 9)) -> float:
    """The largest, at batch sizes that were not traced."""
    run_one_row(path, path)  # apart: a crash is this file's
    runtime, x = open_runtime(path), sequences(net, sum(batches))
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    found = np.concatenate([runtime.logits(part) for part in np.split(x, np.cumsum(batches)[:-1])])
    return float(np.abs(found - expected).max() / expected.std())


def refused(problem: StageError) -> str:
    """The operation that one line names."""
    assert "\n" not in str(problem)
    match = ONE_LINE.fullmatch(str(problem))
    assert match, str(problem)
    return f"no: {match[2]}"


def in_onnx(model: SequenceClassifier, net: type[nets.Net], data: Prepared, folder: Path) -> dict[str, str]:
    """What becomes of a net in ONNX, by variant."""
    try:
        content = export_onnx.export_onnx(Checkpoint(model, {}), EXPORT_NAMES, 20).lean
    except StageError as problem:
        return {"ONNX": refused(problem)}
    (folder / "classifier-fp32.onnx").write_bytes(content)
    assert error(folder / "classifier-fp32.onnx", model, net) < BOUNDS["fp32"]
    found = {"ONNX": "yes"}
    for variant, recipe in compress_onnx.RECIPES.items():
        path = folder / f"classifier-{variant}.onnx"
        path.write_bytes(compress_onnx.compress(content, recipe, data, COMPRESS))
        share = inspect_file(path).share(recipe.stored_as)
        assert share >= COMPRESS.minimum_share or variant == "int8_static", (variant, share)
        assert error(path, model, net) < BOUNDS[variant], variant
        found[variant] = "yes" if share >= COMPRESS.minimum_share else "no kernel"
    return found


def in_coreml(model: SequenceClassifier, net: type[nets.Net], data: Prepared, folder: Path) -> dict[str, str]:
    """What becomes of a net in Core ML, by variant."""
    found = {}
    for precision, title in (("fp32", "Core ML"), ("fp16", "Core ML fp16")):
        path = folder / f"classifier-{precision}.mlpackage"
        try:
            package = export_coreml.export_coreml(Checkpoint(model, {}), EXPORT_NAMES, EXPORT_PARAMS, precision)  # type: ignore[arg-type]
        except StageError as problem:
            return {"Core ML": refused(problem)}
        export_coreml.save(package, path)
        assert error(path, model, net) < BOUNDS[precision], precision
        found[title] = "yes"
    path, steps = folder / "classifier-int8.mlpackage", compress_coreml.parse_variant("int8")
    export_coreml.save(compress_coreml.compress(folder / "classifier-fp16.mlpackage", steps, 16), path)
    assert error(path, model, net) < BOUNDS["int8"]
    return found | {"Core ML int8": "yes"}


def in_coreai(model: SequenceClassifier, net: type[nets.Net], data: Prepared, folder: Path) -> dict[str, str]:
    """What becomes of a net in Core AI, in full precision."""
    path, checkpoint = folder / "classifier-fp32.aimodel", Checkpoint(model, {})
    try:
        program = convert(checkpoint, EXPORT_NAMES, "fp32", nets.TIME_STEPS)
    except StageError as problem:
        return {"Core AI": refused(problem)}
    program.save_asset(path, described(EXPORT_NAMES, checkpoint))
    x = sequences(net, 12)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x)).numpy()
    found = np.concatenate(logits_of(path, x[:1], x[1:3], x[3:]))
    assert np.abs(found - expected).max() / expected.std() < BOUNDS["fp32"]
    return {"Core AI": "yes"}


def in_executorch(model: SequenceClassifier, net: type[nets.Net], data: Prepared, folder: Path) -> dict[str, str]:
    """What becomes of a net in ExecuTorch, in full precision."""
    from shared.conversion.executorch_program import convert

    path = folder / "classifier-fp32.pte"
    try:
        export_executorch.save(convert(Checkpoint(model, {}), EXPORT_NAMES, max(BATCHES)), path)
    except StageError as problem:
        return {"ExecuTorch": refused(problem)}
    assert error(path, model, net, BATCHES) < BOUNDS["fp32"]
    return {"ExecuTorch": "yes"}


COLUMNS: dict[Carry, list[str]] = {
    in_onnx: ["ONNX", *compress_onnx.RECIPES],
    in_coreml: ["Core ML", "Core ML fp16", "Core ML int8"],
    in_coreai: ["Core AI"],
    in_executorch: ["ExecuTorch"],
}
HEAD = ["net", *itertools.chain.from_iterable(COLUMNS.values())]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def documented() -> tuple[list[str], dict[str, dict[str, str]]]:
    """The columns of the table, and what each says of each net."""
    head, _, *rows = (line for line in DOCUMENT.read_text().splitlines() if line.startswith("|"))
    cells = [dict(zip(cells_of(head), cells_of(row), strict=True)) for row in rows]
    return cells_of(head), {row["net"]: row for row in cells}


def update(title: str, found: dict[str, str]) -> None:
    """Write what was found of a net into the table."""
    text, _, _ = DOCUMENT.read_text().partition("| net |")
    _, rows = documented()
    rows[title] = rows.get(title, {"net": title}) | found
    cells = [HEAD, *([rows[net].get(column, "") for column in HEAD] for net in nets.NETS if net in rows)]
    head, *lines = (f"| {' | '.join(each)} |" for each in cells)
    DOCUMENT.write_text(text + "\n".join([head, f"|{'---|' * len(HEAD)}", *lines, ""]))


@every_net
@pytest.mark.parametrize(
    "carry",
    [
        in_onnx,
        in_coreml,
        pytest.param(in_coreai, marks=needs_core_ai),
        pytest.param(in_executorch, marks=needs_executorch),
    ],
)
def test_a_net_computes_what_it_does_in_pytorch_or_one_line_says_why_not(
    carry: Carry, title: str, prepared: dict[bool, Prepared], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    net = nets.NETS[title]
    outcome = carry(nets.classifier(net), net, prepared[net.tokens], tmp_path)
    found = dict.fromkeys(COLUMNS[carry], "") | outcome
    if os.environ.get("UPDATE"):
        with FileLock(tmp_path_factory.getbasetemp().parent / "nets.lock"):  # one at a time of `pytest -n auto`
            update(title, found)
    row = documented()[1][title]
    assert {column: row[column] for column in found} == found


def test_the_table_has_every_net_and_no_other() -> None:
    columns, rows = documented()
    assert columns == HEAD
    assert list(rows) == list(nets.NETS)
    assert len(nets.NETS) >= 25


def test_the_document_names_the_release_of_executorch_that_requirements_pin() -> None:
    [pinned] = re.findall(r"^executorch==(\S+)$", (ROOT / "requirements-executorch.txt").read_text(), re.MULTILINE)
    assert f"ExecuTorch {pinned}" in DOCUMENT.read_text()


@pytest.mark.parametrize(
    "title", ["nn.Embedding, then nn.GRU", "learned positions (nn.Parameter)", "nn.ConvTranspose1d"]
)
def test_every_weight_in_8_bits_is_within_half_a_step_of_its_source(
    title: str, prepared: dict[bool, Prepared], tmp_path: Path
) -> None:
    net = nets.NETS[title]
    content = export_onnx.export_onnx(Checkpoint(nets.classifier(net), {}), EXPORT_NAMES, 20).lean
    source = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer}
    graph = compress_onnx.integer_weights(onnx.load_from_string(content)).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    restoring = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert restoring
    for node in restoring:
        integers, scales = (stored[name] for name in node.input)
        axis = node.attribute[0].i
        weights, shape = source[node.output[0]], [1] * integers.ndim
        shape[axis] = -1
        steps = scales.reshape(shape)
        assert np.all(np.abs(integers * steps - weights) <= 0.501 * steps)
        largest = np.abs(weights).max(axis=tuple(other for other in range(weights.ndim) if other != axis))
        np.testing.assert_allclose(scales * 127, largest, rtol=1e-6)
    matrices = {
        name for name, values in source.items() if values.dtype == np.float32 and sum(n > 1 for n in values.shape) > 1
    }
    gates = {node.input[3] for node in graph.node if node.op_type in {"GRU", "LSTM", "RNN"}}
    assert matrices - gates == {node.output[0] for node in restoring}
