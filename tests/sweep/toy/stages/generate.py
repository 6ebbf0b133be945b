"""A table of rows."""

import os
from pathlib import Path

from shared.kit.params import Count, StageParams, read_params
from shared.kit.stage import parse_args, run, write_json


class Params(StageParams):
    """Section `generate`."""

    rows: Count


def note(stage: str) -> None:
    """Write down, outside of the project, that a stage was executed."""
    with Path(os.environ["RUN_LOG"]).open("a") as log:
        log.write(f"{stage}\n")


def main() -> None:
    """Write the table."""
    args = parse_args(__doc__, {}, {"table": "the rows"})
    note("generate")
    write_json(args.table, {"rows": read_params("generate", Params).rows})


if __name__ == "__main__":
    run(main)
