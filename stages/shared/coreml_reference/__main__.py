"""Show a Core ML package (.mlpackage), run it, or find the op at which its result departs from the exact one."""

import argparse
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Ctrl-C ends in one line while libraries are imported too: some swallow KeyboardInterrupt then.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"coreml_reference: interrupted\n"), os._exit(130)))
    # Run as a folder, Python puts the folder itself on the path, where `shared` cannot be found.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from shared.coreml_reference.compare import Comparison, Distance, compare, distance
from shared.coreml_reference.errors import CoreMLReferenceError, InputError, reported
from shared.coreml_reference.features import Feature
from shared.coreml_reference.program import SavedProgram, load_program
from shared.coreml_reference.reference import CoreMLReference

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do what it asks."""
    args = parse_args(arguments)
    try:
        if args.input is None:
            show(load_program(args.package, args.function))
        else:
            run(args)
    except (CoreMLReferenceError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)


def say(text: str) -> None:
    """Print lines that may hold names from a package: they cannot steer the terminal."""
    print("\n".join(map(printable, text.split("\n"))))


def printable(text: str) -> str:
    r"""Escape what a terminal would obey and not show, as Python writes it: `\x1b`, `\u202e`."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = argparse.ArgumentParser(
        prog="coreml_reference",
        description=__doc__,
        epilog="Without --input: prints the inputs and outputs with their bounds, the op counts and the program.",
    )
    parser.add_argument("package", type=Path, help="the .mlpackage")
    parser.add_argument("--function", help="the function of a package with several (default: the package's default)")
    parser.add_argument("--input", type=Path, metavar="NPZ", help="run the package on these inputs, arrays by name")
    parser.add_argument("--output", type=Path, metavar="NPZ", help="where to write the outputs")
    parser.add_argument(
        "--compute",
        choices=("declared", "exact"),
        default="declared",
        help="round every result to its declared dtype (default), or compute in float64 throughout",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="NPZ",
        help="another runtime's outputs or intermediate values, by their names in the program; names the first op "
        "whose result departs from the exact one, in the declared precision and in that runtime",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="what counts as departing: the largest difference over the largest exact magnitude (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    if args.input is None and (args.output or args.compare):
        parser.error("--output and --compare need --input")
    return args


def show(program: SavedProgram) -> None:
    """Print what the package holds."""
    say(f"{program.path}: function {program.function_name!r}, specification version {program.specification_version}")
    if len(program.function_names) > 1:
        say(f"functions: {', '.join(program.function_names)}")
    for title, features in (("inputs", program.inputs), ("states", program.states), ("outputs", program.outputs)):
        if features:
            say(f"{title}:")
            for feature in features.values():
                say(f"  {printable(feature_text(feature))}")
    for key, value in sorted(program.user_defined_metadata.items()):
        say(f"metadata: {printable(key)} = {printable(value)}")
    counts = Counter(operation.op_type for operation in program.operations)
    say(f"{counts.total()} ops: {', '.join(f'{count} {op_type}' for op_type, count in counts.most_common())}")
    say(str(program.function))


def feature_text(feature: Feature) -> str:
    """Describe an input or an output in one line."""
    if feature.dtype is None:
        return f"{feature.name}: {feature.kind}"
    flexible = feature.bounds is not None or feature.shapes
    default = f", default {feature.shape}" if flexible else ""
    optional = f", optional ({feature.default:g} if left out)" if feature.default is not None else ""
    return f"{feature.name}: {feature.dtype} {feature.shape_text()}{default}{optional}"


def run(args: argparse.Namespace) -> None:
    """Run the package; print, write and compare its outputs as asked."""
    data = read_arrays(args.input)
    other = read_arrays(args.compare) if args.compare else {}
    model = CoreMLReference(args.package, args.function, args.compute)
    outputs = model.predict(data, model.make_state())
    for name, value in outputs.items():
        say(f"{name}: {value_text(value)}")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with args.output.open("wb") as stream:
            np.savez(stream, **storable(outputs))
    if args.compare:
        compare_with(args, data, other)


def compare_with(args: argparse.Namespace, data: Arrays, other: Arrays) -> None:
    """Print which op departs first, in the declared precision and in the other runtime, and by how much at the end."""
    declared = CoreMLReference(args.package, args.function)
    exact = CoreMLReference(args.package, args.function, "exact")
    results = {result.name: result for result in compare(declared, exact, data, other)}
    unknown = sorted(set(other) - set(results))
    if unknown:
        raise InputError(f"{args.compare}: no value {unknown[0]!r} in the program (or it is not a tensor)")
    declared_distances = [(result, result.declared) for result in results.values()]
    say(f"declared precision against exact: {first_departure(declared_distances, args.tolerance)}")
    others = [(result, result.other) for result in results.values() if result.other is not None]
    say(f"{args.compare} against exact: {first_departure(others, args.tolerance)}")
    outputs = declared.predict(data, declared.make_state())
    for name in sorted(set(outputs) & set(other)):
        say(f"output {name!r}: {args.compare} against declared precision: {distance(other[name], outputs[name])}")


def first_departure(distances: list[tuple[Comparison, Distance]], tolerance: float) -> str:
    """Name the first result that is further from the exact one than the tolerance."""
    for result, found in distances:
        if not found.relative <= tolerance:
            return f"departs first at {result}: {found} (tolerance {tolerance:g})"
    worst = max(distances, key=lambda pair: pair[1].relative, default=None)
    where = f"; worst is {worst[0]}: {worst[1]}" if worst else ""
    return f"none of {len(distances)} results departs by more than {tolerance:g}{where}"


def read_arrays(path: Path) -> Arrays:
    """Read an .npz; nothing in it is ever unpickled."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; expected an .npz")
    with reported(InputError, f"{path}: not an .npz of plain arrays"):
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise InputError(f"{path}: one array; expected an .npz with arrays by name")
        with archive:
            arrays = dict(archive)
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: {name!r} is no array; expected an .npz of plain arrays")
    return arrays


def storable(outputs: dict[str, Any]) -> dict[str, Any]:
    """Turn outputs into arrays; a dictionary of probabilities becomes its values and, as NAME.classes, its keys."""
    arrays: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, dict):
            arrays[name] = np.array(list(value.values()))
            arrays[f"{name}.classes"] = np.array(list(value))
        else:
            arrays[name] = np.asarray(value)
    return arrays


def value_text(value: Any) -> str:
    """Write an output: dtype, shape and values, shortened by numpy."""
    if not isinstance(value, np.ndarray):
        return str(value)
    return f"{value.dtype} {value.shape}\n{np.array2string(value, threshold=20, edgeitems=3)}"


if __name__ == "__main__":
    main()
