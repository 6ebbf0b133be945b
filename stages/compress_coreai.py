"""Compress a Core AI asset: an exported one in; one variant of it out, of the kind that its name says.

    sparse50      the 50 % of a tensor's weights that are nearest to zero become zero, and only the others are stored
    palette4      each weight becomes one of 16 values (4 bits), which k-means chooses for its tensor
    int8          each weight becomes one of 255 equal steps, with a scale for each output channel

By Apple's coreai-opt. Biases and small tensors stay as they are. The computation keeps the precision of the asset that
came in: in dvc.yaml the float32 one, since Apple's runtime multiplies float16 eighty times as slowly on a PC.
"""

import contextlib
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from shared.conversion.compression import check_compressed
from shared.conversion.coreai_canonical import canonicalize
from shared.execution.one_row import run_one_row
from shared.files.aimodel import Program, import_coreai, why_missing
from shared.files.artifacts import precision_of, why_left_out, write_left_out
from shared.files.inspection import inspect_file
from shared.files.quiet import hidden
from shared.kit import importing
from shared.kit.params import Count, StageParams, read_params
from shared.kit.stage import StageError, one_line, parse_args, replacing, run

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

STEP = re.compile(r"(sparse|palette|int)(\d+)")
ALLOWED = {"sparse": range(1, 100), "palette": (1, 2, 4, 6, 8), "int": (4, 8)}
KNOWN = "sparse1 to sparse99, palette1, 2, 4, 6 or 8, int4 or int8"
FORMS = {"sparse": "sparse_with_bitmask_to_dense", "palette": "lut_to_dense", "int": "blockwise_shift_scale"}
"""The ops that restore the weights then, as in `FileFacts.stored_as`."""
ADVICE = "lower compress_coreai.smallest_tensor or minimum_share"


def parse_variant(variant: str) -> tuple[str, int]:
    """Read a variant's name: what is done, and how far, in percent that become zero or in bits.

    Raises:
        ValueError: It names nothing that can be done.
    """
    found = STEP.fullmatch(variant)
    if not found or int(found[2]) not in ALLOWED[found[1]]:
        raise ValueError(f"unknown variant {variant!r}; known: {KNOWN}")
    return found[1], int(found[2])


class Params(StageParams):
    """Section `compress_coreai`."""

    variants: list[str]
    smallest_tensor: Count
    minimum_share: float = Field(gt=0, le=1)

    @field_validator("variants")
    @classmethod
    def _known(cls, variants: list[str]) -> list[str]:
        for variant in variants:
            parse_variant(variant)
        return variants


def cluster(values: NDArray[np.float16], k: int, weights: NDArray[np.int_]) -> SimpleNamespace:
    """In place of coreai-opt's k-means of numbers, which it has as C++ and would compile on the user's machine.

    Args:
        values: Distinct numbers.
        k: How many clusters.
        weights: How often each number occurs.

    Returns:
        `clusters`: the cluster of each number; `centroids`: their means.
    """
    with importing(), hidden("pandas"):  # which scikit-learn imports where it finds it, to know its tables by
        from sklearn.cluster import KMeans

    found = KMeans(k, n_init=4, random_state=0).fit(values.astype(np.float64).reshape(-1, 1), sample_weight=weights)
    return SimpleNamespace(clusters=found.labels_, centroids=found.cluster_centers_[:, 0])


def compress(asset: Path, kind: str, amount: int, smallest_tensor: int) -> Any:
    """Make one variant of an asset from its tensors of at least so many weights; equal assets give equal weights.

    Returns:
        A `coreai.authoring.AIProgram`.
    """
    passes = {
        name: import_coreai(f"coreai_opt.coreai_utils.passes.weight_{module}")
        for name, module in {"sparse": "sparsification", "palette": "palettization", "int": "quantization"}.items()
    }
    common = import_coreai("coreai_opt.coreai_utils.common")
    program, limit = Program(asset).program, {"weight_num_threshold": smallest_tensor - 1}
    with threadpool_limits(limits=1), contextlib.redirect_stderr(io.StringIO()):
        if kind == "sparse":
            return passes[kind].sparsify_weights(program, target_sparsity=amount / 100, **limit)
        if kind == "int":
            return passes[kind].quantize_weights(program, common.DType(f"int{amount}"), **limit)
        palettes: Any = import_coreai("coreai_opt.coreai_utils._utils.palettize_utils")
        palettes._kmeans1d = SimpleNamespace(cluster=cluster)
        # Its fast mode rounds weights before it groups them; with several workers it hangs.
        return passes[kind].palettize_weights(
            program, None, amount, num_kmeans_workers=1, enable_fast_kmeans_mode=False, **limit
        )


def main() -> None:
    """Read the arguments and the parameters; write the variant, if it is what its name says."""
    args = parse_args(
        __doc__,
        inputs={"asset": "the exported asset"},
        outputs={"compressed": "the variant that its name says: classifier-<variant>.aimodel"},
    )
    params = read_params("compress_coreai", Params)
    variant = precision_of(args.compressed)
    try:
        kind, amount = parse_variant(variant)
    except ValueError as error:
        raise StageError(f"{args.compressed}: {error}") from None
    reason = why_left_out(args.asset) or why_missing("coreai_opt.coreai_utils.common")
    if reason:
        write_left_out(args.compressed, reason)
        return
    try:
        program = compress(args.asset, kind, amount, params.smallest_tensor)
    except (StageError, OSError, MemoryError):
        raise
    except Exception as error:  # the toolkit's have no common base
        raise StageError(f"{args.asset}: {one_line(error)}") from None
    metadata = import_coreai().AIModelAsset.load(args.asset).metadata
    with replacing(args.compressed) as beside:
        program.save_asset(beside, metadata)
        canonicalize(beside)
        check_compressed(inspect_file(beside), variant, FORMS[kind], params.minimum_share, ADVICE)
        run_one_row(beside, args.compressed)


if __name__ == "__main__":
    run(main)
