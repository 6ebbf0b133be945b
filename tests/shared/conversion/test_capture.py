"""Recurrent layers are captured by their shapes: the exported bytes are those of an exporter that runs them."""

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import export_onnx
from commands.benchmarks import stock_export
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, classifier

import onnx
import pytest
import torch


@pytest.mark.parametrize(
    ("changes", "dynamic_time"),
    [
        ({"name": "lstm"}, True),
        ({"name": "lstm", "layers": 2, "bidirectional": True, "ragged": True}, False),
        ({"name": "gru", "layers": 2, "bidirectional": True}, True),
    ],
)
def test_the_bytes_are_those_of_an_exporter_that_runs_the_layer(changes: dict[str, Any], dynamic_time: bool) -> None:
    checkpoint = Checkpoint(classifier(hidden_size=6, **changes), {})
    names = EXPORT_NAMES.model_copy(update={"dynamic_time": dynamic_time})
    with mock.patch.object(export_onnx, "recurrent_by_shape", contextlib.nullcontext):
        expected = export_onnx.export_onnx(checkpoint, names, 20)
    assert export_onnx.export_onnx(checkpoint, names, 20) == expected


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_stock_graph_is_that_of_an_exporter_that_runs_the_layer(name: str, tmp_path: Path) -> None:
    def export(path: Path) -> onnx.ModelProto:
        stock_export.export_stock(classifier(name=name), (torch.zeros(2, 5, 2),), path)
        model = onnx.load(path)
        for part in (model, model.graph, *model.graph.node):
            del part.metadata_props[:]
        return model

    with mock.patch.object(stock_export, "recurrent_by_shape", contextlib.nullcontext):
        expected = export(tmp_path / "expected.onnx")
    assert export(tmp_path / "found.onnx") == expected
    assert abs((tmp_path / "found.onnx").stat().st_size - (tmp_path / "expected.onnx").stat().st_size) < 50
