"""Recurrent layers are captured by their shapes: the exported bytes are those of an exporter that runs them."""

import contextlib
from typing import Any
from unittest import mock

import export_onnx
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, classifier

import pytest


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
