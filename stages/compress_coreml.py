"""Compress an mlpackage: one exported package in; one variant of it out, of the kind that its name says.

The name is one step, or `sparse` and one of the others joined by `_` (which Core ML takes from iOS 18 on):

    sparse50      the 50 % of a tensor's weights that are nearest to zero become zero, and only the others are stored
    palette4      each weight becomes one of 16 values (4 bits), which k-means chooses for its tensor
    int8          each weight becomes one of 255 equal steps, with a scale for each output channel

Biases and small tensors stay as they are. The computation keeps the precision of the package that came in.
"""

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.conversion.canonical import canonicalize_mlpackage
from shared.conversion.compression import check_compressed
from shared.execution.one_row import run_one_row
from shared.files.artifacts import is_left_out, precision_of, write_left_out
from shared.files.inspection import inspect_file
from shared.files.mlpackage import model_file, read_model
from shared.files.quiet import import_coremltools
from shared.kit.params import Count, StageParams, read_params
from shared.kit.stage import StageError, one_line, parse_args, replacing, run

import numpy as np
from pydantic import Field, field_validator
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

STEP = re.compile(r"(sparse|palette|int)(\d+)")
ALLOWED = {"sparse": range(1, 100), "palette": (1, 2, 3, 4, 6, 8), "int": (4, 8)}
KNOWN = "sparse1 to sparse99, palette1, 2, 3, 4, 6 or 8, int4 or int8, or sparse and one of the others joined by '_'"
ADVICE = "lower compress_coreml.smallest_tensor or minimum_share"
IOS18 = 9  # its specification version


@dataclass(frozen=True)
class Step:
    """One way to compress, and how far: percent that become zero, or bits."""

    kind: str
    amount: int


def parse_variant(variant: str) -> list[Step]:
    """Read a variant's name.

    Raises:
        ValueError: It names no step, or two that do not go together.
    """
    found = [STEP.fullmatch(word) for word in variant.split("_")]
    steps = [Step(match[1], int(match[2])) for match in found if match]
    kinds = [step.kind for step in steps]
    if (
        len(steps) < len(found)
        or any(step.amount not in ALLOWED[step.kind] for step in steps)
        or (len(kinds) > 1 and kinds not in (["sparse", "palette"], ["sparse", "int"]))
    ):
        raise ValueError(f"unknown variant {variant!r}; known: {KNOWN}")
    return steps


class Params(StageParams):
    """Section `compress_coreml`."""

    variants: list[str]
    smallest_tensor: Count
    minimum_share: float = Field(gt=0, le=1)

    @field_validator("variants")
    @classmethod
    def _known(cls, variants: list[str]) -> list[str]:
        for variant in variants:
            parse_variant(variant)
        return variants


def compress(package: Path, steps: list[Step], smallest_tensor: int) -> Any:
    """Make one variant of a package from its tensors of at least so many weights; equal packages give equal weights.

    Two steps, and 4-bit integers, are in Core ML from iOS 18 on: such a package declares that it needs it.

    Returns:
        A `coremltools.models.MLModel`.
    """
    ct = import_coremltools()
    import coremltools.optimize.coreml as cto

    model = read_model(package)
    if len(steps) > 1 or steps[0] == Step("int", 4):
        model.specificationVersion = max(model.specificationVersion, IOS18)
    limit = {"weight_threshold": smallest_tensor - 1}  # its default, 2047, silently skips most of a small net
    methods = {
        "sparse": lambda amount: (
            cto.prune_weights,
            cto.OpMagnitudePrunerConfig(target_sparsity=amount / 100, **limit),
        ),
        "palette": lambda amount: (cto.palettize_weights, cto.OpPalettizerConfig(mode="kmeans", nbits=amount, **limit)),
        "int": lambda amount: (
            cto.linear_quantize_weights,
            cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype=f"int{amount}", **limit),
        ),
    }
    # k-means sums what its threads found in the order in which they end.
    with (
        threadpool_limits(limits=1),
        contextlib.redirect_stderr(io.StringIO()),  # progress bars
        np.errstate(divide="ignore", invalid="ignore"),  # an output channel of zeros has a scale of zero
    ):
        result = ct.models.MLModel(model, weights_dir=str(model_file(package).parent / "weights"), skip_model_load=True)
        for number, step in enumerate(steps):
            method, config = methods[step.kind](step.amount)
            result = method(result, cto.OptimizationConfig(global_config=config), joint_compression=number > 0)
    result.user_defined_metadata["deployment_target"] = ct.target(result.get_spec().specificationVersion).name
    return result


def expected_form(steps: list[Step], specification_version: int) -> str:
    """How the weights must be stored then: the `constexpr_*` ops that restore them, as in `FileFacts.stored_as`."""
    integers = "blockwise_shift_scale" if specification_version >= IOS18 else "affine_dequantize"
    kinds = [step.kind for step in steps]
    forms = {
        ("sparse",): "sparse_to_dense",
        ("palette",): "lut_to_dense",
        ("int",): integers,
        ("sparse", "palette"): "lut_to_sparse+sparse_to_dense",
        ("sparse", "int"): "sparse_blockwise_shift_scale+sparse_to_dense",
    }
    return forms[tuple(kinds)]


def main() -> None:
    """Read the arguments and the parameters; write the variant, if it is what its name says."""
    args = parse_args(
        __doc__,
        inputs={"package": "the exported package"},
        outputs={"compressed": "the variant that its name says: classifier-<variant>.mlpackage"},
    )
    params = read_params("compress_coreml", Params)
    variant = precision_of(args.compressed)
    try:
        steps = parse_variant(variant)
    except ValueError as error:
        raise StageError(f"{args.compressed}: {error}") from None
    if is_left_out(args.package):
        write_left_out(args.compressed)
        return
    try:
        model = compress(args.package, steps, params.smallest_tensor)
    except (StageError, OSError, MemoryError):
        raise
    except Exception as error:  # the toolkit's have no common base
        raise StageError(f"{args.package}: {one_line(error)}") from None
    with replacing(args.compressed) as beside:
        model.save(str(beside))
        canonicalize_mlpackage(beside)
        form = expected_form(steps, model.get_spec().specificationVersion)
        check_compressed(inspect_file(beside), variant, form, params.minimum_share, ADVICE)
        run_one_row(beside, args.compressed)


if __name__ == "__main__":
    run(main)
