"""A net whose accuracy is known: the nearer its learning rate is to 0.01, the better."""

import math
import os
import time
from pathlib import Path

from generate import note
from shared.params import Count, StageParams, read_params
from shared.stage import StageError, parse_args, read_json, run, write_bytes, write_json

from pydantic import Field


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
    time.sleep(params.seconds)
    while Path(os.environ["RUN_LOG"]).with_suffix(".hold").exists():
        time.sleep(0.1)
    if params.learning_rate > 10:
        raise StageError(f"the loss is nan with learning_rate {params.learning_rate:g}")
    accuracy = 1 - 0.1 * abs(math.log10(params.learning_rate) + 2)
    write_json(args.model, {"accuracy": accuracy, "bytes": rows * params.layers})
    write_json(args.summary, {"validation_accuracy": accuracy})
    write_bytes(args.loss, f"epoch,validation_loss\n1,1.0\n2,{1 - accuracy}\n".encode())


if __name__ == "__main__":
    run(main)
