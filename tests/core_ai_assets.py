"""Core AI in the tests: a net to an asset, and an asset through Apple's runtime, which has a build for Linux."""

import asyncio
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def run(asset: Path, *feeds: Arrays) -> list[list[NDArray[Any]]]:
    """What Apple's runtime computes for each of the inputs: all outputs, in their order."""
    from coreai.authoring import AIModelAsset
    from coreai.runtime import NDArray as Tensor

    async def all_of_them() -> list[list[NDArray[Any]]]:
        async with AIModelAsset.load(asset).executable() as model:
            function = model.load_function("main")
            results = [
                await function({name: Tensor(np.ascontiguousarray(value)) for name, value in feed.items()})
                for feed in feeds
            ]
            return [[np.array(result[name].numpy()) for name in function.desc.output_names] for result in results]

    return asyncio.run(all_of_them())
