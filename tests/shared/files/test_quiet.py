"""The import of coremltools says nothing, and its later warnings are heard; nothing is imported for nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging
from shared.files.quiet import import_coremltools
coremltools = import_coremltools()
logging.getLogger("coremltools").warning("later")
print(coremltools.__name__)
"""


def test_only_the_import_is_quiet() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "stages")}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "coremltools\n"
    assert result.stderr.splitlines()[-1:] == ["later"]
    assert len(result.stderr.splitlines()) == 1


def test_onnx_runtime_s_tools_come_without_torch_which_can_be_imported_later() -> None:
    script = """
import sys
from shared.files.quiet import import_onnxruntime_tools
import_onnxruntime_tools("onnx_model_utils")
print("torch" in sys.modules)
import importlib.util
print(importlib.util.find_spec("torch") is not None)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "stages")}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("importer", ["shared.files.quiet", "shared.coreml_reference.quiet"])
def test_coremltools_comes_without_what_compresses_torch_s_nets_which_can_be_imported_later(importer: str) -> None:
    script = f"""
import sys
import torch
from {importer} import import_coremltools
import_coremltools()
print("torch.distributed.fsdp" in sys.modules)
import coremltools.optimize.torch.palettization
print("torch.distributed.fsdp" in sys.modules, hasattr(coremltools.optimize.torch, "palettization"))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "stages")}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[:2] == ["False", "True True"]
