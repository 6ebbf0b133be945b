"""A bill of materials of the bundle: its models and what they were made with, as CycloneDX 1.6 JSON.

The format is https://cyclonedx.org/docs/1.6/json/. It has no date and a serial number that follows from its content, so
that equal bundles have equal bills.
"""

import importlib.metadata
import json
import re
import uuid
from collections.abc import Iterable
from typing import Any

MADE_WITH = (
    "torch",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "coremltools",
    "numpy",
    "protobuf",
    "scikit-learn",
)
"""The packages whose code decides the bytes of a model; whatever installed them may be older or newer elsewhere."""
MADE_CORE_AI_WITH = ("coreai-core", "coreai-opt", "coreai-torch")
"""The same of Core AI files alone, which not every machine can make."""


def made_with(files: Iterable[str]) -> list[str]:
    """The packages that decided the bytes of these model files."""
    return [*MADE_WITH, *(MADE_CORE_AI_WITH if any(file.endswith(".aimodel") for file in files) else ())]


def bill_of_materials(name: str, version: str, models: dict[str, str]) -> dict[str, Any]:
    """The bill.

    Args:
        name: Of the bundle.
        version: Of the model.
        models: The SHA-256 of each model file by its name; of a package, of the sums of its files.
    """
    subject = {"type": "application", "bom-ref": f"{name}@{version}", "name": name, "version": version}
    parts = [
        {
            "type": "machine-learning-model",
            "bom-ref": file,
            "name": file,
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
        for file, digest in sorted(models.items())
    ]
    libraries = [library(package) for package in sorted(made_with(models))]
    content: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject},
        "components": [*parts, *libraries],
        "dependencies": [
            {"ref": subject["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"], "dependsOn": [each["bom-ref"] for each in libraries]} for part in parts),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    return {**content, "serialNumber": f"urn:uuid:{serial}"}


def library(package: str) -> dict[str, Any]:
    """One installed package as a component; a build's own mark (`+cpu`) is no part of its version."""
    found = importlib.metadata.metadata(package)
    version = found["Version"].partition("+")[0]
    name = re.sub(r"[-_.]+", "-", package).lower()
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
    }
    if "License-Expression" in found:
        component["licenses"] = [{"expression": found["License-Expression"]}]
    return component
