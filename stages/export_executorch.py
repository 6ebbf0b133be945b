"""Export to ExecuTorch: checkpoint in; one program for XNNPACK out, in float32, with a bounded batch axis.

It is off by default, and needs requirements-executorch.txt: where `export.formats` does not name it, or it is not
installed, a note with the reason stands in place of the file, and the page repeats it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from shared.conversion.export import ExportParams, left_out
from shared.conversion.failures import cannot_carry
from shared.execution.isolation import MachineError
from shared.execution.one_row import run_one_row
from shared.files.pte import why_missing
from shared.kit.params import StageParams, read_params
from shared.kit.stage import StageError, parse_args, replacing, run

from pydantic import Field

if TYPE_CHECKING:
    from shared.conversion.executorch_program import Converted


class Params(StageParams):
    """Section `export_executorch`."""

    largest_batch: int = Field(ge=2, le=65_536)


def save(converted: "Converted", path: Path) -> None:
    """Write the program, once it has given a row of logits: its exporter writes some that its runtime refuses.

    Raises:
        StageError: It is refused, crashes, or gives no logits.
    """
    with replacing(path) as beside:
        beside.write_bytes(converted.content)
        try:
            run_one_row(beside, path)
        except MachineError:
            raise
        except StageError as error:
            operator = next((name for name in converted.modules if f" {name}: " in str(error)), None)
            if operator is None:
                raise
            operation = operator.partition("::")[2].partition(".")[0]
            reason = f"ExecuTorch's runtime refuses {str(error)[str(error).index(operator) :]}"
            raise StageError(cannot_carry("executorch", operation, converted.modules[operator], reason)) from None


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

    save(convert(load_checkpoint(args.checkpoint), names, params.largest_batch), args.program)


if __name__ == "__main__":
    run(main)
