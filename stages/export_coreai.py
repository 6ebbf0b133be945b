"""Export to Core AI: checkpoint in; one asset a precision out, both with a float32 interface and a dynamic batch axis.

Core AI takes Core ML's place from iOS 27 and macOS 27 on. Apple's packages for it are for Linux on x86-64 and for macOS
on Apple silicon: on another machine a note with the reason stands in place of each file, and the page repeats it.
"""

from pathlib import Path
from typing import Any, Literal, get_args

from shared.conversion.coreai_canonical import canonicalize
from shared.conversion.export import ExportParams, left_out
from shared.files.aimodel import why_missing
from shared.kit import importing
from shared.kit.params import Count, StageParams, read_params
from shared.kit.stage import parse_args, replacing, run

Precision = Literal["fp32", "fp16"]


class Params(StageParams):
    """Section `export_coreai`."""

    largest_unrolled_time: Count


def save(program: Any, metadata: Any, path: Path) -> None:
    """Save an asset with stable bytes."""
    with replacing(path) as beside:
        program.save_asset(beside, metadata)
        canonicalize(beside)


def main() -> None:
    """Read the arguments and the parameters; write the assets, or why there are none."""
    precisions = get_args(Precision)
    args = parse_args(
        __doc__,
        inputs={"checkpoint": "the trained model"},
        outputs={precision: f"the {precision} asset" for precision in precisions},
    )
    names = read_params("export", ExportParams)
    params = read_params("export_coreai", Params)
    paths = [getattr(args, precision) for precision in precisions]
    if left_out("coreai", names, paths, lambda: why_missing("coreai_torch", "coreai_opt.casting.casting")):
        return

    with importing():  # of torch, which a note needs no time for
        from shared.conversion.coreai_program import convert, described
        from shared.network.model import load_checkpoint

        import torch.export._trace  # noqa: F401 - else torch.export.export does it

    checkpoint = load_checkpoint(args.checkpoint)
    for precision, path in zip(precisions, paths, strict=True):
        save(convert(checkpoint, names, precision, params.largest_unrolled_time), described(names, checkpoint), path)


if __name__ == "__main__":
    run(main)
