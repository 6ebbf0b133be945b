"""Whether a net is fit to ship."""

from generate import note
from shared.kit.params import StageParams, read_params
from shared.kit.stage import parse_args, read_json, run, write_json


class Params(StageParams):
    """Section `verify`."""

    limit: float


def main() -> None:
    """Write the verdict."""
    args = parse_args(__doc__, {"model": "the net"}, {"verdict": "the verdict"})
    note("verify")
    fit = read_json(args.model)["accuracy"] >= read_params("verify", Params).limit
    write_json(args.verdict, {"onnx": {"int8": {"outcome": "fit" if fit else "too_lossy"}}})


if __name__ == "__main__":
    run(main)
