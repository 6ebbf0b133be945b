"""List the variants that params.yaml asks for: its lists in; one for each folder of exported files out.

DVC leaves the file of a variant that was taken off a list where it is. With the list among the files, whoever reads the
folder knows which of them still count, and deletes the others first: see `discard_unlisted`.
"""

from shared.files.artifacts import write_list
from shared.kit.params import StageParams, read_params
from shared.kit.stage import parse_args, run


class Variants(StageParams, extra="ignore"):
    """The list of section `compress_onnx`, `compress_coreml` or `compress_coreai`; its stage validates the rest."""

    variants: list[str]


def main() -> None:
    """Read the lists of the parameters; write each where the files are."""
    args = parse_args(
        __doc__,
        inputs={},
        outputs={
            "onnx": "the variants of the ONNX file (JSON)",
            "coreml": "the variants of the mlpackage (JSON)",
            "coreai": "the variants of the Core AI asset (JSON)",
        },
    )
    write_list(args.onnx, read_params("compress_onnx", Variants).variants)
    write_list(args.coreml, read_params("compress_coreml", Variants).variants)
    write_list(args.coreai, read_params("compress_coreai", Variants).variants)


if __name__ == "__main__":
    run(main)
