"""Core AI in the tests: a net to an asset, and an asset through Apple's runtime, which has a build for Linux."""

import json
import multiprocessing
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from shared.execution.coreai import CoreAIFunction
from shared.execution.isolation import START_METHOD
from shared.execution.runtimes import open_runtime
from shared.files.aimodel import (
    Program,
    constant_array,
    element_type,
    import_coreai,
    is_constant,
    shape_of,
    with_constants,
)

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def export(model: torch.nn.Module, path: Path, inputs: Sequence[torch.Tensor], axes: Any = None) -> Path:
    """Export a net as it is, with these names of the axes that are not fixed."""
    from shared.conversion.coreai_decompositions import decompositions
    from shared.conversion.coreai_recurrent import as_one_op, register_loops

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a version of torch that is not the one that coreai-torch was built for
        from coreai_torch import TorchConverter

        with as_one_op():
            program = torch.export.export(model.eval(), tuple(inputs), dynamic_shapes=axes)
        converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
        register_loops(converter)
        converter.add_exported_program(program.run_decompositions(decompositions())).to_coreai().save_asset(path)
    return path


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Call it in a process of its own: one that has used Apple's runtime can fork no more, as the tests have to."""
    with ProcessPoolExecutor(1, multiprocessing.get_context(START_METHOD)) as pool:
        return pool.submit(function, *args).result()


def run(asset: Path, *feeds: Arrays) -> list[list[NDArray[Any]]]:
    """What Apple's runtime computes for each of the inputs: all outputs, in their order."""
    results: list[list[NDArray[Any]]] = apart(_run, asset, *feeds)
    return results


def _run(asset: Path, *feeds: Arrays) -> list[list[NDArray[Any]]]:
    function = CoreAIFunction(asset)
    return [[result[name] for name in function.outputs] for result in (function(dict(feed)) for feed in feeds)]


def logits_of(asset: Path, *batches: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """A classifier's logits of each batch."""
    logits: list[NDArray[np.float32]] = apart(_logits, asset, *batches)
    return logits


def _logits(asset: Path, *batches: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    runtime = open_runtime(asset)
    return [runtime.logits(batch) for batch in batches]


def change_constant(asset: Path, kind: str, size: int, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Change the first constant of a type and a number of elements, and leave the rest of an asset as it is."""
    program = Program(asset)
    for place, operation in enumerate(program.operations):
        [value] = operation.results if is_constant(operation) else [None]
        if value is not None and element_type(value) == kind and np.prod(shape_of(value)) == size:
            with_constants(asset, {place: change(constant_array(operation))}, asset)
            return
    raise ValueError(f"{asset}: no constant of {size} elements of {kind}")


def change_text(asset: Path, old: str, new: str, most: int = 1) -> None:
    """Change the first occurrences of some words in an asset's program, written as a text; -1: all of them."""
    text = str(Program(asset).program)
    assert old in text, text[:5000]
    metadata = import_coreai().AIModelAsset.load(asset).metadata
    context = import_coreai("coreai._compiler.context").Context()
    ir = import_coreai("coreai._compiler.ir")
    with context._mlir_context, ir.Location.unknown():
        module = ir.Module.parse(text.replace(old, new, most))
        import_coreai().AIProgram._from_mlir_module(module).save_asset(asset, metadata)


def change_metadata(asset: Path, key: str, value: Any) -> None:
    """Change what an exporter wrote into an asset's metadata, as JSON."""
    loaded = import_coreai().AIModelAsset.load(asset)
    loaded.update_metadata(lambda metadata: metadata.set_custom(key, json.dumps(value)))
