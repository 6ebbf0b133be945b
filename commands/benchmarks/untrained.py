"""Untrained nets of every architecture, exported: neither size nor speed depends on how long a net is trained."""

import sys
from pathlib import Path
from types import ModuleType

import export_coreml
from shared.data.sequences import Schema
from shared.kit.params import read_params
from shared.network.architectures import ArchitectureParams
from shared.network.model import Checkpoint, ModelConfig, SequenceClassifier, save_checkpoint


def save_untrained(architecture: str, schema: Schema, folder: Path) -> Path:
    """Write a checkpoint of an architecture with its committed options, for data of this schema."""
    section = read_params("architecture", ArchitectureParams)
    config = ModelConfig(
        features=schema.features,
        time_steps=schema.time_steps,
        classes=schema.classes,
        ragged=schema.ragged,
        standardize=False,
        architecture=architecture,
        options=section.model_copy(update={"name": architecture}).options,
    )
    folder.mkdir(parents=True)
    checkpoint = folder / "classifier.pt"
    save_checkpoint(checkpoint, Checkpoint(SequenceClassifier(config).eval(), {}))
    return checkpoint


def export_packages(checkpoint: Path) -> dict[str, Path]:
    """The mlpackages of a checkpoint, beside it: `fp32` and `fp16`."""
    packages = {precision: checkpoint.with_name(f"{precision}.mlpackage") for precision in ("fp32", "fp16")}
    run_stage(export_coreml, checkpoint, *packages.values())
    return packages


def run_stage(stage: ModuleType, *paths: Path) -> None:
    """Run a stage in this process, with the parameters in the current folder."""
    sys.argv = [f"{stage.__name__}.py", *map(str, paths)]
    stage.main()
