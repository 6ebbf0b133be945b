"""A net whose accuracy is known: the nearer its learning rate is to 0.01, the better."""

import math
import os
import time
from pathlib import Path

from generate import note
from shared.kit.params import Count, StageParams, read_params
from shared.kit.stage import StageError, parse_args, read_json, replacing, run, write_json

from pydantic import Field

EPOCHS = 10


class Params(StageParams):
    """Section `train`."""

    learning_rate: float = Field(gt=0)
    layers: Count
    seconds: float = Field(ge=0)


def main() -> None:
    """Train, as long as is asked for, and as a file beside the log says so."""
    args = parse_args(
        __doc__, {"table": "rows"}, {"model": "the net", "summary": "its accuracy", "loss": "of each epoch"}
    )
    params = read_params("train", Params)
    rows = read_json(args.table)["rows"]
    note(f"train {params.learning_rate:g} {params.layers}")
    while Path(os.environ["RUN_LOG"]).with_suffix(".hold").exists():
        time.sleep(0.1)
    if params.learning_rate > 10:
        raise StageError(f"the loss is nan with learning_rate {params.learning_rate:g}")
    accuracy = 1 - 0.1 * abs(math.log10(params.learning_rate) + 2)
    with replacing(args.loss) as beside, beside.open("w") as losses:
        losses.write("epoch,validation_loss\n")
        for epoch in range(1, EPOCHS + 1):
            time.sleep(params.seconds / EPOCHS)
            losses.write(f"{epoch},{1 - accuracy * epoch / EPOCHS}\n")
            losses.flush()
    write_json(args.model, {"accuracy": accuracy, "bytes": rows * params.layers})
    write_json(args.summary, {"validation_accuracy": accuracy})


if __name__ == "__main__":
    run(main)
