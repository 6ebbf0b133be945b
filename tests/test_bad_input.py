"""What a user gets wrong costs one line: where it is, what was found, what is allowed. Nothing is half-written."""

import json
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.conversion.canonical import canonical_onnx
from shared.network.architectures import ARCHITECTURES
from shared.network.model import load_checkpoint, save_checkpoint
from tests.support import ROOT, Workspace, clean_environment, rejections

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

CHECKPOINT = "models/pytorch/classifier.pt"
ONNX = "models/onnx/classifier-fp32.onnx"
FP32 = "models/coreml/classifier-fp32.mlpackage"
FP16 = "models/coreml/classifier-fp16.mlpackage"

NO_SOURCE = "weights: the float32 file that it is judged by was not executed"


# --- params.yaml ---


@pytest.mark.parametrize(
    ("stage", "key", "value", "message"),
    [
        ("train", "train.learning_rat", 0.1, "unknown key train.learning_rat (did you mean 'learning_rate'?); allowed"),
        ("train", "train.epochs", "many", "train.epochs = 'many': input should be a valid integer"),
        ("train", "train.epochs", 3.5, "train.epochs = 3.5: input should be a valid integer"),
        ("train", "train.epochs", True, "train.epochs = True: input should be a valid integer"),
        ("train", "architecture.gru.hidden_size", 0, "architecture.gru.hidden_size = 0: input should be greater"),
        ("train", "architecture.name", "lsmt", "(did you mean 'lstm'?)"),
        ("train", "architecture.cnn.kernel", 3, "architecture.cnn.kernel (did you mean 'kernel_size'?); allowed: chan"),
        ("train", "architecture.cnn.kernel_size", 4, "architecture.cnn.kernel_size = 4: should be odd"),
        ("train", "architecture.transformer.heads", 5, "should be even and a multiple of heads (5)"),
        ("train", "train.learning_rate", float("nan"), "train.learning_rate = nan: input should be"),
        ("train", "train.schedule", "step", "train.schedule = 'step': input should be 'constant', 'cosine' or 'li"),
        ("train", "train.momentum", 0.9, "train.momentum = 0.9: should be 0 with optimizer adam, which has its own"),
        ("train", "train.epochs", 10**30, "train.epochs = 1000000000000000000000000000000: input should be less than"),
        ("train", "train.seed", 10**30, "train.seed = 1000000000000000000000000000000: input should be less than 922"),
        ("train", "train.threads", 10**6, "train.threads = 1000000: input should be less than or equal to 1024"),
        ("train", "architecture.gru.hidden_size", 10**8, "hidden_size = 100000000: input should be less than or equal"),
        ("train", "architecture.lstm.layers", 10**8, "layers = 100000000: input should be less than or equal to 1000"),
        ("generate", "generate.rows", 10**30, "generate.rows = 1000000000000000000000000000000: input should be less"),
        ("prepare", "prepare.time_steps", 10**12, "prepare.time_steps = 1000000000000: input should be less than"),
        ("generate", "generate.seed", -1, "generate.seed = -1: input should be greater than or equal to 0"),
        ("prepare", "prepare.train_size", 1.5, "prepare.train_size = 1.5: should be a number of rows (an int"),
        ("prepare", "prepare.classes", [0, 0], "prepare.classes = [0, 0]: every class should be named once"),
        ("prepare", "prepare.layout", "tall", "prepare.layout = 'tall': input should be 'wide' or 'long'"),
        ("prepare", "prepare.layout", "long", "prepare.id_column = None: prepare.layout = 'long' needs this column's"),
        ("prepare", "prepare.time_column", "t", "prepare.time_column = 't': prepare.layout = 'wide' has no such colum"),
        ("prepare", "prepare.features", ["x", "x"], "prepare.features = ['x', 'x']: should be null (all that the tabl"),
        ("prepare", "prepare.missing", "median", "prepare.missing = 'median': input should be 'refuse', 'zero', 'prev"),
        ("prepare", "prepare.train_size", None, "prepare.train_size = None: may be null only where prepare.split_col"),
        ("prepare", "prepare.split_column", "part", "prepare.train_size = 200: expected null, because prepare.split_"),
        ("export_onnx", "export.input_name", "a b", "export.input_name = 'a b': string should match pattern"),
        ("export_onnx", "export_onnx.opset", 9, "export_onnx.opset = 9: input should be greater than or equal to 18"),
        ("export_coreml", "export_coreml.deployment_target", "iOS12", "'iOS15', 'iOS16', 'iOS17' or 'iOS18'"),
        ("export_coreml", "export_coreml.default_batch", 65, "default_batch should be at most largest_batch (64)"),
        ("predict@onnx", "predict.probe_batches", [], "predict.probe_batches = []: list should have at least 1 item"),
        ("predict@onnx", "predict.probe_times", [10**9], "predict.probe_times.0 = 1000000000: input should be less th"),
        ("predict@onnx", "predict.memory_megabytes", 0, "predict.memory_megabytes = 0: input should be greater than 0"),
        ("predict@onnx", "predict.timeout_seconds", 1e300, "predict.timeout_seconds = 1e+300: input should be less th"),
        ("verify", "verify.accuracy_loss", -1.0, "verify.accuracy_loss"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_allowed(
    workspace: Workspace, stage: str, key: str, value: Any, message: str
) -> None:
    workspace.set(key, value)
    error = workspace.refuses(stage)
    assert error.startswith("params.yaml: ")
    assert message in error


def replace_text(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs: 20\n", "", "params.yaml: key train.epochs is missing"),
        (
            "train:\n",
            "trian:\n",
            "params.yaml: section 'train' is missing (did you mean 'trian'?); found ['gen",
        ),
        ("train:\n", "train: [\n", "params.yaml: not valid YAML: "),
    ],
)
def test_a_missing_key_or_section_is_named(workspace: Workspace, old: str, new: str, message: str) -> None:
    replace_text(workspace.folder / "params.yaml", old, new)
    assert workspace.refuses("train").startswith(message)


def test_without_params_yaml(workspace: Workspace) -> None:
    (workspace.folder / "params.yaml").unlink()
    assert workspace.refuses("train") == "params.yaml: no such file; run from the project's folder"


def test_an_exponent_without_a_point_is_a_number(workspace: Workspace) -> None:
    """YAML 1.1, which many readers still speak, takes `1e-3` for a string."""
    before = workspace.files()
    replace_text(workspace.folder / "params.yaml", "learning_rate: 0.001", "learning_rate: 1e-3")
    workspace.call("train")
    changed = {name for name, content in workspace.files().items() if before.get(name) != content}
    assert changed == {"params.yaml"}


# --- the table ---

HEADER = "x0,x1,label"
LONG = {"layout": "long", "id_column": "id", "time_column": "t"}
LONG_HEADER = "id,t,ax,label"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": the table is empty"),
        ("label,x0,x1\n", ": the table has no rows"),
        (f"{HEADER}\n1,2,0\n1,2\n", ", row 2, column 'label': found no value; every sequence needs its label"),
        ("label,x0,x1\n0,1,2\n0,1\n", ", row 2, column 'x1': found no value; expected a finite number (prepare.miss"),
        (f"{HEADER}\n1,2,0\n1,2,0,5\n", ", row 2: found 4 cells, but the header has 3"),
        (f"{HEADER}\n1,2,0,5\n1,2,0,5\n", ", row 1: found 4 cells, but the header has 3"),
        (f"{HEADER}\n1,2,0\n1,,0\n", ", row 2, column 'x1': found no value; expected a finite number"),
        (f"{HEADER}\n1,2,\n", ", row 1, column 'label': found no value; every sequence needs its label"),
        (f"{HEADER}\n1,2,0\n1,nan,0\n", ", row 2, column 'x1': found no value; expected a finite number"),
        (f"{HEADER}\n1,inf,0\n", ", row 1, column 'x1': found inf; expected a finite number"),
        (f"{HEADER}\n1,1e39,0\n", ", row 1, column 'x1': found 1e+39; expected a finite number"),
        (f"{HEADER}\n1,2,0\n1,2,0\ntwo,2,0\n", ", row 3, column 'x0': found 'two'; expected a finite number"),
        (f"{HEADER}\n1,b,0\na,2,0\n", ", row 1, column 'x1': found 'b'; expected a finite number"),
        (f"{HEADER}\n1,True,0\n", ", row 1, column 'x1': found True; expected a finite number"),
        (f"{HEADER}\n1,2,0\n1,2,7\n", ", row 2, column 'label': found '7'; prepare.classes allows 0, 1, 2"),
        ("x0,x1\n1,2\n", ": no label column 'label' (prepare.label_column); found x0, x1"),
        ("x0,x2,label\n1,2,0\n", ": column x1 is missing; every feature needs steps 0 to 2"),
        ("x.0,x.1,y_0,label\n1,2,3,0\n", ": column y_1 is missing; every feature needs steps 0 to 1"),
        ("x0,x1,x.1,label\n1,2,3,0\n", ": columns 'x1' and 'x.1' are the same step of 'x'"),
        ("x0,x0,label\n1,2,0\n", ": two columns are called 'x0'"),
        ("x0,weight,label\n1,2,0\n", ": column 'weight' is neither the label nor named <feature>.<step>, as in x.0"),
        ("label\n0\n", ": no column is named <feature>.<step>, as in x.0"),
        (f"{HEADER}\n1,2,0\n1,2,1\n", ": 2 rows are too few for prepare.train_size = 200 and prepare.validation_size"),
        (f'{HEADER}\n1,"2,0\n', ", row 1: a quotation mark is opened and never closed"),
        (f'{HEADER}\n\n1,"a\nb",0\n\n1,2,0\n1,2,0,5\n', ", row 3: found 4 cells, but the header has 3"),
        (f'"{HEADER}\n1,2,0\n', ", header: a quotation mark is opened and never closed"),
        (f"{HEADER}\n1,2,0\n1,2,\udce9\n", r", row 2: found b'\xe9', which is not UTF-8"),
        (f"{HEADER}\n1,{'9' * 5000},0\n", ", row 1, column 'x1': found '9999999999999999999999999999999999999...9999"),
        ("x0,x99999999999,label\n1,2,0\n", ": column 'x99999999999': a time step of 11 digits"),
        ("x0,x999999999,label\n1,2,0\n", ": column x1 is missing; every feature needs steps 0 to 999999999"),
        (f"x0,x{'9' * 5000},label\n1,2,0\n", ": column 'x999999999999999999999999999999999999...9999"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_and_the_earlier_arrays_are_kept(
    workspace: Workspace, content: str, message: str
) -> None:
    workspace.set("prepare.classes", [0, 1, 2])
    (workspace.folder / "data" / "sequences.csv").write_text(content, errors="surrogateescape")
    started = time.monotonic()
    error = workspace.refuses("prepare")
    assert error.startswith(f"data/sequences.csv{message}")
    assert len(error) < 300
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("params", "content", "message"),
    [
        (LONG, "id,t,label\na,1,0\n", ": no column is left for a feature beside label, id and time"),
        (LONG, "id,ax,label\na,1,0\n", ": no time column 't' (prepare.time_column); found id, ax, label"),
        (LONG, f"{LONG_HEADER}\na,1,2,0\na,2,x,0\n", ", row 2, column 'ax': found 'x'; expected a finite number"),
        (LONG, f"{LONG_HEADER}\na,1,2,0\n,2,3,0\n", ", row 2, column 'id': found no value; every sequence needs its i"),
        (LONG, f"{LONG_HEADER}\na,1,2,0\na,,3,0\n", ", row 2, column 't': found no value; expected a finite number or"),
        (LONG, f"{LONG_HEADER}\na,1,2,0\na,soon,3,0\n", ", row 2, column 't': found 'soon'; expected a finite number"),
        (LONG, f"{LONG_HEADER}\na,0001-01-01,2,0\n", ", row 1, column 't': found '0001-01-01'; expected a finite"),
        (LONG, f"{LONG_HEADER}\na,9999-12-31T23:59:59,2,0\n", ", row 1, column 't': found '9999-12-31T23:59:59'; exp"),
        (LONG, f"{LONG_HEADER}\na,{2**70},2,0\na,{2**70},2,0\n", f", row 2, column 't': found '{2**70}', which is"),
        (LONG, f"{LONG_HEADER}\na,1,2,0\na,1,3,0\n", ", row 2, column 't': found 1, which is not after the row above"),
        (LONG, f"{LONG_HEADER}\na,1,2,0\na,2,3,1\n", ", row 2, column 'label': found '1' after another label in the s"),
        (
            LONG,
            f"{LONG_HEADER}\na,1,2,0\nb,2,3,1\nc,1,1,1\nb,3,3,1\n",
            ", row 4, column 'id': sequence 'b' has other rows further up; the rows of a sequence should stand togethe",
        ),
        (
            LONG,
            f"{LONG_HEADER}\na,1,2,0\na,2,3,0\nb,1,3,1\n",
            ", row 3: a sequence of 1 steps, but the first has 2; prepare.ragged = true lets lengths differ",
        ),
        (
            LONG | {"ragged": True, "time_steps": 2},
            f"{LONG_HEADER}\na,1,2,0\nb,1,3,1\nb,2,3,1\nb,3,3,1\n",
            ", row 2: a sequence of 3 steps, but prepare.time_steps = 2",
        ),
        (LONG | {"features": ["az"]}, f"{LONG_HEADER}\n", ": no feature 'az' (prepare.features); found ax"),
        (LONG | {"group_column": "id"}, f"{LONG_HEADER}\n", ": column 'id' is both prepare.id_column and prepare.grou"),
        ({"time_steps": 3}, f"{HEADER}\n1,2,0\n", ", row 1: a sequence of 2 steps, but prepare.time_steps = 3"),
        ({"label_column": 3}, f"{HEADER}\n1,2,0\n", ": prepare.label_column = 3: the table has 3 columns, the first i"),
        ({"features": ["y"]}, f"{HEADER}\n1,2,0\n", ": no feature 'y' (prepare.features); found x"),
        ({"ragged": True}, f"{HEADER}\n1,2,0\n,2,0\n", ", row 2, column 'x0': found no value; expected a finite"),
        ({"ragged": True}, f"{HEADER}\n1,2,0\n,,0\n", ", row 2: no value in any column"),
        ({"missing": "zero"}, f"{HEADER}\n1,,0\n1,-inf,0\n", ", row 2, column 'x1': found -inf; expected a finite num"),
        (
            {"missing": "previous"},
            "x0,x1,y0,y1,label\n1,1,1,1,0\n1,1,1,1,1\n1,,,,0\n",
            ", row 3: prepare.missing = 'previous', but the sequence has no value of feature 'y'",
        ),
        ({}, f"{HEADER}\n1,2,a\n1,2,a\n1,2,a\n", ": every label is 'a'; a classifier needs two classes"),
        ({"group_column": "who"}, "x0,who,label\n1,a,0\n1,b,1\n1,b,1\n", ": prepare.group_column = 'who': 2 groups ar"),
        (
            {"split_column": "s", "train_size": None},
            "x0,s,label\n1,train,0\n1,dev,1\n",
            ", row 2, column 's': found 'dev'; expected train, validation, test",
        ),
        (
            {"split_column": "s", "train_size": None},
            "x0,s,label\n1,train,0\n1,train,1\n",
            ": prepare.split_column = 's': no row is 'test'",
        ),
        (
            {"split_column": "s", "train_size": None},
            "x0,s,label\n1,train,0\n1,validation,1\n1,test,1\n",
            ": prepare.split_column = 's': some rows are 'validation', so prepare.validation_size should be null",
        ),
        (
            {"split_column": "s", "train_size": None, "validation_size": None},
            "x0,s,label\n1,train,0\n1,test,1\n",
            ": prepare.split_column = 's': no row is 'validation'; prepare.validation_size draws it from the training",
        ),
        (
            {"split_column": "s", "train_size": None},
            "x0,s,label\n1,train,0\n1,test,1\n",
            ": prepare.split_column = 's': 1 training rows are too few for prepare.validation_size = 1",
        ),
        (
            {"split_column": "s", "train_size": None, "group_column": "who"},
            "x0,s,who,label\n1,train,a,0\n1,test,b,1\n1,test,a,1\n",
            ", row 3, column 's': found 'test', but other rows of group 'a' are in another split",
        ),
    ],
)  # fmt: skip
def test_a_table_that_contradicts_the_parameters_is_refused(
    empty_workspace: Workspace, params: dict[str, Any], content: str, message: str
) -> None:
    for key, value in ({"train_size": 1, "validation_size": 1} | params).items():
        empty_workspace.set(f"prepare.{key}", value)
    (empty_workspace.folder / "table.csv").write_text(content)
    assert empty_workspace.refuses("prepare", "table.csv", "prepared").startswith(f"table.csv{message}")


def test_a_label_column_of_numbers_that_are_no_classes_is_refused(empty_workspace: Workspace) -> None:
    values = "\n".join(f"1,{row / 7}" for row in range(2000))
    (empty_workspace.folder / "table.csv").write_text(f"x0,label\n{values}\n")
    error = empty_workspace.refuses("prepare", "table.csv", "prepared")
    assert error.startswith("table.csv: over 1000 different labels in prepare.label_column = 'label'; is it the right")


def test_a_missing_table_is_named(workspace: Workspace) -> None:
    (workspace.folder / "data" / "sequences.csv").unlink()
    error = workspace.refuses("prepare")
    assert error.startswith(
        "data/sequences.csv: no such file or folder (expected a CSV or Parquet file, or a folder of "
    )


def test_a_table_of_another_kind_is_refused(workspace: Workspace) -> None:
    (workspace.folder / "data" / "sequences.xlsx").write_bytes(b"PK")
    error = workspace.refuses("prepare", "data/sequences.xlsx", "data/prepared")
    assert error == "data/sequences.xlsx: a table should be .csv or .parquet"


def test_a_damaged_parquet_table_is_refused(workspace: Workspace) -> None:
    (workspace.folder / "data" / "sequences.parquet").write_bytes(b"PAR1 and then nothing")
    error = workspace.refuses("prepare", "data/sequences.parquet", "data/prepared")
    assert error.startswith("data/sequences.parquet: not a readable table: ")


BYTES = [b"walk", b"run"] * 20
NOT_UTF8 = pa.array([b"\xff", b"run"] * 20).view(pa.string())


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", BYTES, ", column 'label': found values of type binary; expected text, numbers or dates"),
        ("label", [["a"], ["b"]] * 20, ", column 'label': found values of type list<element: string>; expected text,"),
        ("label", [{"a": 1}] * 40, ", column 'label': found values of type struct<a: int64>; expected text, numbers"),
        ("label", NOT_UTF8, ", row 1, column 'label': cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ("label", pa.array([1, 2**31 - 1] * 20, pa.date32()), ", row 2, column 'label': cannot be read: "),
        ("x0", BYTES, ", row 1, column 'x0': found b'walk'; expected a finite number"),
        ("x0", NOT_UTF8, ", row 1, column 'x0': cannot be read: "),
        ("x0", pa.array([2**31 - 1] * 40, pa.date32()), ", row 1, column 'x0': found a value of type date32[day] that"),
        ("x0", [["a"]] * 40, ", row 1, column 'x0': found ['a']; expected a finite number"),
    ],
)  # fmt: skip
def test_values_in_parquet_that_are_no_numbers_or_names_are_refused(
    empty_workspace: Workspace, column: str, values: Any, message: str
) -> None:
    columns = {"x0": [1.0] * 40, "label": ["a", "b"] * 20} | {column: values}
    pq.write_table(pa.table(columns), empty_workspace.folder / "table.parquet")
    assert empty_workspace.refuses("prepare", "table.parquet", "prepared").startswith(f"table.parquet{message}")


def test_sequences_padded_beyond_the_disk_are_refused_at_once(workspace: Workspace) -> None:
    workspace.set("prepare.time_steps", 1_000_000_000)
    workspace.set("prepare.ragged", True)
    assert re.match(
        r"700 sequences of 1,000,000,000 time steps need 2,800\.0 GB, and the disk has [\d.,]+ GB free \(prepare\.time",
        workspace.refuses("prepare"),
    )


def test_a_class_too_rare_to_stratify_is_refused(workspace: Workspace) -> None:
    table = workspace.folder / "data" / "sequences.csv"
    lines = table.read_text().splitlines()
    kept = [line for line in lines if not line.endswith(",2")]
    table.write_text("\n".join([*kept, "1,1,1,1,1,1,2", ""]))
    workspace.set("prepare.stratify", True)
    error = workspace.refuses("prepare")
    assert error.startswith(
        "data/sequences.csv: prepare.stratify = true: class '2' has 1 rows to draw from, too few for one in the "
    )


# --- training ---


def test_a_loss_that_is_not_finite_names_the_epoch_and_the_learning_rate(workspace: Workspace) -> None:
    workspace.set("train.learning_rate", 1e38)
    error = workspace.refuses("train")
    assert error.startswith("epoch 1: the validation loss is nan at learning rate 1e+38; lower train.learning_rate")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mixed_precision", "bfloat16", "train.mixed_precision = bfloat16: needs a GPU, and train.device is cpu"),
        ("class_weights", [1.0, 2.0], "train.class_weights = [1.0, 2.0]: should be a number above 0 for each of 0, 1"),
        ("class_weights", [1.0, 0.0, 1.0], "train.class_weights = [1.0, 0.0, 1.0]: should be a number above 0"),
    ],
)  # fmt: skip
def test_what_does_not_suit_the_device_or_the_data_is_refused(
    workspace: Workspace, key: str, value: Any, message: str
) -> None:
    workspace.set(f"train.{key}", value)
    assert workspace.refuses("train").startswith(message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_a_device_that_is_not_there_is_refused(workspace: Workspace) -> None:
    workspace.set("train.device", "cuda")
    assert workspace.refuses("train").startswith("train.device = cuda: torch finds no such device; it finds cpu")


def test_prepared_arrays_that_do_not_fit_their_schema_are_refused(workspace: Workspace) -> None:
    prepared = workspace.folder / "data" / "prepared"
    shutil.copy(prepared / "validation.npy", prepared / "train.npy")
    error = workspace.refuses("train")
    assert error.startswith("data/prepared/train.npy: found float32 (100, 6, 1); the schema says float32 (200, 6, 1)")


def test_damaged_prepared_arrays_are_refused(workspace: Workspace) -> None:
    truncate(workspace.folder / "data" / "prepared" / "train.npy")
    assert workspace.refuses("train").startswith("data/prepared/train.npy: not a readable array: ")


# --- checkpoints ---


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("stage", ["export_onnx", "export_coreml"])
def test_a_truncated_checkpoint_is_refused(workspace: Workspace, stage: str) -> None:
    truncate(workspace.folder / CHECKPOINT)
    assert workspace.refuses(stage).startswith(f"{CHECKPOINT}: not a readable checkpoint: ")


def test_with_a_checkpoint_that_cannot_be_executed_nothing_is_judged(workspace: Workspace) -> None:
    truncate(workspace.folder / CHECKPOINT)
    workspace.call("predict@pytorch")
    for stage in ("evaluate", "verify"):
        error = workspace.refuses(stage)
        assert error.startswith(f"PyTorch's logits are missing: {CHECKPOINT}: not a readable checkpoint: ")


def test_a_checkpoint_that_carries_code_is_refused_and_the_code_does_not_run(workspace: Workspace) -> None:
    marker = workspace.folder.parent / "executed"
    torch.save({"config": Malicious(marker)}, workspace.folder / CHECKPOINT)
    assert workspace.refuses("export_onnx").startswith(f"{CHECKPOINT}: not a readable checkpoint: ")
    assert not marker.exists()
    with (workspace.folder / CHECKPOINT).open("rb") as file:
        torch.load(file, weights_only=False)
    assert marker.exists(), "the code would have run"


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps({"state": 1})])
def test_a_file_that_is_no_checkpoint_is_refused(workspace: Workspace, content: bytes) -> None:
    (workspace.folder / CHECKPOINT).write_bytes(content)
    assert workspace.refuses("export_onnx").startswith(f"{CHECKPOINT}: not a readable checkpoint: ")


def altered(content: Any, key: str, value: Any) -> Any:
    *outer, last = key.split(".")
    part = content
    for name in outer:
        part = part[name]
    part[last] = value
    return content


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config.options.hidden_size", 49, "Error(s) in loading state_dict"),
        ("config.options.kernel_size", 3, "kernel_size: Extra inputs are not permitted"),
        ("config.architecture", "lsmt", f"'lsmt' is none of {', '.join(sorted(ARCHITECTURES))} (did you mean 'lstm'?)"),
        ("config.time_steps", 2**70, "time_steps: Input should be less than or equal to 1000000000"),
        ("state", {}, "ValueError: it has no network.linear.bias"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(
    workspace: Workspace, key: str, value: Any, message: str
) -> None:
    path = workspace.folder / CHECKPOINT
    torch.save(altered(torch.load(path, weights_only=True), key, value), path)
    error = workspace.refuses("export_onnx")
    assert error.startswith(f"{CHECKPOINT}: a checkpoint of another architecture")
    assert message in error


@pytest.mark.parametrize("content", [[1, 2], {"state": {}}])
def test_a_checkpoint_of_another_program_is_refused(workspace: Workspace, content: Any) -> None:
    torch.save(content, workspace.folder / CHECKPOINT)
    assert workspace.refuses("export_onnx").startswith(f"{CHECKPOINT}: a checkpoint of another architecture")


# --- exported files ---


def test_a_truncated_onnx_file_is_refused(workspace: Workspace) -> None:
    truncate(workspace.folder / ONNX)
    assert rejections(workspace, "onnx")["fp32"].startswith(f"executed: {ONNX}: not a readable ONNX file: ")


def test_an_onnx_file_without_its_weights_is_refused(workspace: Workspace) -> None:
    path = workspace.folder / ONNX
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    (path.parent / "weights").unlink()
    assert rejections(workspace, "onnx")["fp32"].startswith(f"executed: {ONNX}: not a readable ONNX file: ")


def test_a_format_without_files_is_refused(workspace: Workspace) -> None:
    for file in (workspace.folder / "models/onnx").iterdir():
        file.unlink()
    assert workspace.refuses("predict@onnx") == "models/onnx: no exported file in this folder"


@pytest.mark.parametrize("part", ["Data/com.apple.CoreML/weights/weight.bin", "Data/com.apple.CoreML/model.mlmodel"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_mlpackage_is_refused(workspace: Workspace, part: str, damage: Callable[[Path], None]) -> None:
    damage(workspace.folder / FP16 / part)
    rejected = rejections(workspace, "coreml")
    assert rejected.keys() == {"fp16"}
    assert rejected["fp16"].startswith("executed: ")
    assert FP16 in rejected["fp16"]


def test_a_damaged_file_hides_no_verdict_on_another(workspace: Workspace) -> None:
    for package in (FP16, FP32):
        (workspace.folder / package / "Manifest.json").unlink()
    edit_onnx(workspace, scale_weights)
    workspace.call("predict@onnx")
    rejected = rejections(workspace, "coreml")
    assert FP16 in rejected.pop("fp16")
    assert FP32 in rejected.pop("fp32")
    assert set(rejected.values()) == {NO_SOURCE}
    verified = json.loads((workspace.folder / "metrics" / "verify.json").read_text())
    assert verified["onnx"]["fp32"]["problems"][0].startswith("weights: ")
    evaluated = json.loads((workspace.folder / "metrics" / "evaluate.json").read_text())
    assert set(verified["coreml"]) - set(evaluated["coreml"]) == {"fp16", "fp32"}


def edit_onnx(workspace: Workspace, edit: Callable[[onnx.ModelProto], None]) -> None:
    path = workspace.folder / ONNX
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)


def scale_weights(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.01), tensor.name))


def rename(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"
    for node in model.graph.node:
        node.input[:] = ["x" if name == "sequence" else name for name in node.input]
    onnx.helper.set_model_props(model, {"classes": '["a", "b", "c"]', "features": '["value"]'})


def lengthen(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7


def problems_found(workspace: Workspace) -> list[str]:
    """What `verify` finds in the workspace as it is."""
    workspace.call("verify")
    verified = json.loads((workspace.folder / "metrics" / "verify.json").read_text())
    return [
        f"{file_format} {variant}: {problem}"
        for file_format, variants in verified.items()
        for variant, figures in variants.items()
        for problem in figures["problems"]
    ]


def test_an_onnx_file_of_another_model_runs_but_is_not_verified(workspace: Workspace) -> None:
    edit_onnx(workspace, scale_weights)
    workspace.call("predict@onnx")
    found = problems_found(workspace)
    assert found[0].startswith("onnx fp32: weights: network.rnn.weight_ih_l0: 200 of 200 values are not in the file")
    assert any(problem.startswith("onnx fp32: graph: relative error ") for problem in found)
    assert "onnx int8: graph: the float32 file that it is judged by is wrong itself" in found
    assert not any(problem.startswith("coreml") for problem in found)
    assert json.loads((workspace.folder / "metrics" / "verify.json").read_text())["onnx"]["fp32"]["passed"] is False


def test_a_mlpackage_of_another_model_runs_but_is_not_verified(workspace: Workspace) -> None:
    other = load_checkpoint(workspace.folder / CHECKPOINT)
    with torch.no_grad():
        other.model.get_parameter("network.linear.weight").mul_(1.01)
    save_checkpoint(workspace.folder / "other.pt", other)
    workspace.call("export_coreml", "other.pt", FP32, FP16)
    workspace.call("predict@coreml")
    found = problems_found(workspace)
    assert found[0].startswith("coreml fp32: weights: network.linear.weight: 150 of 150 values are not in the file")
    assert "coreml fp16: graph: the float32 file that it is judged by is wrong itself" in found
    assert not any(problem.startswith("onnx") for problem in found)


def test_a_file_with_other_tensor_names_and_classes_is_not_verified(workspace: Workspace) -> None:
    edit_onnx(workspace, rename)
    workspace.call("predict@onnx")
    found = problems_found(workspace)
    assert "onnx fp32: interface: input_name 'x'; expected 'sequence'" in found
    assert "onnx fp32: interface: classes ['a', 'b', 'c']; expected ['0', '1', '2']" in found


def test_a_file_for_longer_sequences_is_refused_with_its_axis(workspace: Workspace) -> None:
    edit_onnx(workspace, lengthen)
    rejected = rejections(workspace, "onnx")["fp32"]
    assert rejected.startswith(f"executed: {ONNX}: ")
    assert "Got: 6 Expected: 7" in rejected


def test_a_file_without_stored_classes_is_refused(workspace: Workspace) -> None:
    path = workspace.folder / ONNX
    path.write_bytes(canonical_onnx(onnx.load(path), {"features": '["value"]'}))
    assert rejections(workspace, "onnx") == {
        "fp32": f"executed: {ONNX}: its metadata holds no list of classes",
        "fp16": NO_SOURCE,
        "int8": NO_SOURCE,
    }


def test_damaged_logits_are_refused(workspace: Workspace) -> None:
    (workspace.folder / "data/predictions/onnx/fp32.npy").write_bytes(b"")
    for stage in ("evaluate", "verify"):
        assert workspace.refuses(stage).startswith("data/predictions/onnx/fp32.npy: not a readable prediction: ")


def test_without_pytorchs_logits_nothing_is_judged(workspace: Workspace) -> None:
    shutil.rmtree(workspace.folder / "data/predictions/pytorch")
    for stage in ("evaluate", "verify"):
        assert workspace.refuses(stage).startswith("PyTorch's logits are missing")


@pytest.mark.parametrize("content", ["", "[1]"])
def test_damaged_metrics_are_refused_by_the_report(workspace: Workspace, content: str) -> None:
    (workspace.folder / "metrics" / "verify.json").write_text(content)
    assert workspace.refuses("report").startswith("metrics/verify.json: ")


# --- as a real process ---


@pytest.mark.parametrize(
    ("key", "value", "arguments", "message"),
    [
        ("prepare.seeed", 1, "prepare data/sequences.csv out", "prepare: error: params.yaml: unknown key prepare.seee"),
        ("prepare.seed", 1, "prepare data/none.csv out", "prepare: error: data/none.csv: no such file or folder"),
    ],
)
def test_a_failing_stage_exits_with_1_and_prints_one_line(
    workspace: Workspace, key: str, value: Any, arguments: str, message: str
) -> None:
    workspace.set(key, value)
    stage, *paths = arguments.split()
    finished = subprocess.run(
        [sys.executable, ROOT / "stages" / f"{stage}.py", *paths],
        cwd=workspace.folder, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.startswith(message)
    assert finished.stderr.count("\n") == 1
    assert not (workspace.folder / "out").exists()


def test_parquet_gives_the_same_arrays_as_csv(workspace: Workspace) -> None:
    data = workspace.folder / "data"
    pd.read_csv(data / "sequences.csv").to_parquet(data / "sequences.parquet")
    workspace.call("prepare", "data/sequences.parquet", "data/from_parquet")
    for file in (data / "prepared").iterdir():
        assert (data / "from_parquet" / file.name).read_bytes() == file.read_bytes()
