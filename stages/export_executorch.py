"""Export to ExecuTorch: checkpoint in; one program for XNNPACK out, in float32, with a bounded batch axis.

It is off by default, and needs requirements-executorch.txt: where `export.formats` does not name it, or it is not
installed, a note with the reason stands in place of the file, and the page repeats it.
"""

from shared.conversion.export import ExportParams, left_out
from shared.files.pte import why_missing
from shared.kit.params import StageParams, read_params
from shared.kit.stage import parse_args, run, write_bytes

from pydantic import Field


class Params(StageParams):
    """Section `export_executorch`."""

    largest_batch: int = Field(ge=2, le=65_536)


def main() -> None:
    """Read the arguments and the parameters; write the program, or why there is none."""
    args = parse_args(
        __doc__, inputs={"checkpoint": "the trained model"}, outputs={"program": "the ExecuTorch program"}
    )
    names = read_params("export", ExportParams)
    params = read_params("export_executorch", Params)
    if left_out("executorch", names, [args.program], why_missing):
        return

    from shared.conversion.executorch_program import convert  # torch, which a note needs no time for
    from shared.network.model import load_checkpoint

    write_bytes(args.program, convert(load_checkpoint(args.checkpoint), names, params.largest_batch))


if __name__ == "__main__":
    run(main)
