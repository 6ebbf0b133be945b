"""What a net is worth."""

from generate import note
from shared.kit.stage import parse_args, read_json, run, write_json


def main() -> None:
    """Write the figures."""
    args = parse_args(__doc__, {"model": "the net"}, {"figures": "its figures"})
    note(args.figures.stem)
    model = read_json(args.model)
    write_json(args.figures, {"onnx": {"int8": {"accuracy": model["accuracy"], "bytes": model["bytes"]}}})


if __name__ == "__main__":
    run(main)
