"""One sequence, one thread: every way to have it classified, what each promises, and where the time goes.

docs/latency.md explains the table and what was found.
"""

from contextlib import ExitStack
from pathlib import Path

from commands.benchmarks.c_timer import CCall, open_in_c
from commands.benchmarks.judging import print_ratio, ratio
from commands.benchmarks.latency_candidates import (
    BOUND,
    KEPT,
    RUN,
    STOCK,
    Asked,
    Candidate,
    ask_exported,
    off,
    other_files,
    other_graphs,
    other_options,
    references,
    remake,
    ways_to_call,
)
from commands.benchmarks.lstm_graphs import (
    Floats,
    Net,
    activations_alone,
    identity,
    lstm_alone,
    product_alone,
    read_net,
)
from commands.on_device import MissingError, WrongError
from shared.data.sequences import Prepared
from shared.execution.runners import Batch, OnnxRunner
from shared.execution.runtimes import session_options
from shared.execution.timing import Call, Rounds, TimesItself, alternate, typical

import numpy as np
from tabulate import tabulate

Key = tuple[str, str]
"""What is timed: a candidate's name, after `CANDIDATE`; or where memory comes from, and the name of a part."""
CANDIDATE, IN_PYTHON = "candidate", "Python"
ROUNDS = 50
TURN_SECONDS = 0.005
FEW = 7
"""Sequences that promises are tried with."""
BATCHES = (1, 16, 64, 256, 1024)
C_API = {kind: f"C API, memory from {words}" for kind, words in {
    "arena": "the arena", "heap": "the heap", "pool": "a pool of the app's own"
}.items()}  # fmt: skip
TARGETS = {
    (RUN, STOCK): 0.65,
    (BOUND, STOCK): 0.45,
    (C_API["heap"], STOCK): 0.45,
    (C_API["pool"], STOCK): 0.45,
    (RUN, "torch eager"): 0.2,
}


def bench(clone: Path) -> None:
    """Print all candidates, the targets, and where the time goes."""
    prepared, checkpoint = clone / "data" / "prepared", clone / "models" / "pytorch" / "classifier.pt"
    exported = clone / "models" / "onnx" / "classifier-fp32.onnx"
    folder = clone / "latency"
    for each in (folder, folder / "again", folder / "c"):
        each.mkdir()
    net = read_net(exported.read_bytes())
    asked = ask_exported(exported, Prepared(prepared).split("test").sequences[:FEW])
    again = remake(exported, prepared, checkpoint, folder / "again")
    candidates = (
        references(checkpoint, asked, folder)
        | ways_to_call(exported, asked, again["fp32"])
        | other_options(exported, asked, again["fp32"])
        | other_graphs(net, asked, folder)
        | other_files(exported, asked, again, folder)
    )
    parts = write_parts(net, folder)
    with ExitStack() as stack:
        parts_in_c: dict[Key, CCall] = {}
        try:
            models = [(kind, name, path) for kind in C_API for name, path in {WHOLE: exported, **parts}.items()]
            models += [("pool", variant, exported.with_stem(f"classifier-{variant}")) for variant in ("fp16", "int8")]
            files = [(kind, path) for kind, _, path in models]
            opened = stack.enter_context(open_in_c(files, asked.rows[0], folder / "c"))
            parts_in_c = {(kind, name): call for (kind, name, _), call in zip(models, opened, strict=True)}
        except (MissingError, WrongError) as error:
            candidates |= {name: Candidate(None, str(error), 0) for name in C_API.values()}
        else:
            candidates |= in_c(parts_in_c, candidates, asked)
        identity_in_python = OnnxRunner(parts[NOTHING], threads=1)
        nothing = Batch(np.zeros((1, net.hidden), np.float32), None)
        calls: dict[Key, Call | TimesItself] = {
            **{(CANDIDATE, name): each.call for name, each in candidates.items() if each.call is not None},
            **parts_in_c,
            (IN_PYTHON, RUN): identity_in_python.call(nothing),
            (IN_PYTHON, BOUND): identity_in_python.bound_call(nothing),
        }
        seconds = alternate(calls, rounds=ROUNDS, turn_seconds=TURN_SECONDS)
    print_candidates(candidates, seconds)
    print_targets(seconds)
    print_parts(net, seconds)
    print_batches(exported, Prepared(prepared).split("test").sequences)


def in_c(calls: dict[Key, CCall], python: dict[str, Candidate], asked: Asked) -> dict[str, Candidate]:
    """Candidates of the C API: the same files keep the same promises there, if their logits of the one sequence do."""
    named = {C_API[kind]: (calls[kind, WHOLE], python[RUN]) for kind in C_API}
    for variant in ("fp16", "int8"):
        named[f"{C_API['pool']}, {variant} file"] = (calls["pool", variant], python[f"I/O binding, {variant} file"])
    return {
        name: Candidate(call, "; ".join(off(call.output, asked.expected[0])) or same.promises, same.size)
        for name, (call, same) in named.items()
    }


def print_candidates(candidates: dict[str, Candidate], seconds: dict[Key, Rounds]) -> None:
    """The table: the median of a call and the fastest, the ratio of either to the stock export's, promises."""
    rows = []
    for name, each in candidates.items():
        figures = [""] * 5
        if each.call is not None:
            calls, others = seconds[CANDIDATE, name], seconds[CANDIDATE, STOCK]
            found = ratio(calls, others)
            figures = [
                *(in_microseconds(value) for value in (typical(calls), fastest(calls))),
                f"{found.median:.2f}",
                f"{found.low:.2f}-{found.high:.2f}",
                f"{fastest(calls) / fastest(others):.2f}",
            ]
        size = f"{each.size:,} B" if each.size else ""
        promises = each.promises if each.call is not None else "not run"
        rows.append((name, *figures, size, "default" if each.default else "", promises))
    print("\nLatency of one sequence, one thread\n")
    columns = ("", "µs", "fastest", "ratio", "middle half", "of fastest", "file", "", "promises")
    align = ("left", *["right"] * 6, "left", "left")
    print(tabulate([columns, *rows], tablefmt="plain", disable_numparse=True, colalign=align))
    for name, each in candidates.items():
        if each.call is None:
            print(f"\nnot run: {name}: {each.promises}")
    print(
        f"\npromises: logits as the exported file's, a batch of any size, the same bytes when made again; {KEPT!r} is "
        "all of them"
    )


def fastest(calls: Rounds) -> float:
    """Seconds that one call of a hundred stays below: what it takes where nothing disturbs it."""
    return float(np.quantile(np.concatenate(calls), 0.01))


def print_targets(seconds: dict[Key, Rounds]) -> None:
    """The ratios that have a target."""
    for (name, other), target in TARGETS.items():
        what = f"{name} / {other.partition(',')[0]}"
        if (CANDIDATE, name) in seconds:
            print_ratio(what, ratio(seconds[CANDIDATE, name], seconds[CANDIDATE, other]), target)
        else:
            print(f"  {what}: not run   target {target}")


WHOLE, NOTHING = "whole", "nothing"


def write_parts(net: Net, folder: Path) -> dict[str, Path]:
    """Models of parts of the exported graph, by what they do; a small one of a kind is what the node itself costs."""
    contents = {
        NOTHING: identity(net),
        "lstm": lstm_alone(net, net.steps),
        "longer lstm": lstm_alone(net, 2 * net.steps),
        "product": product_alone(net, 4 * net.hidden),
        "small product": product_alone(net, 1),
        "sigmoid": activations_alone(net, "Sigmoid", 3 * net.hidden),
        "small sigmoid": activations_alone(net, "Sigmoid", 1),
        "tanh": activations_alone(net, "Tanh", 2 * net.hidden),
        "small tanh": activations_alone(net, "Tanh", 1),
    }
    paths = {name: folder / f"part {name}.onnx" for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths


def print_parts(net: Net, seconds: dict[Key, Rounds]) -> None:
    """Where the time goes, as differences between models of parts of the graph, each called on the C API.

    The runtime's own profiler counts whole microseconds, which is too coarse.
    """
    print("\nWhere the time goes, in µs: differences between parts of the graph on the C API, by memory\n")
    if ("heap", WHOLE) not in seconds:
        print("  not run: see C API in the table")
        return
    columns: dict[str, list[str]] = {}
    for kind in C_API:
        took = {name: typical(rounds) for (of, name), rounds in seconds.items() if of == kind}
        steps = took["longer lstm"] - took["lstm"]
        of_a_step = {name: took[name] - took[f"small {name}"] for name in ("product", "sigmoid", "tanh")}
        values = {
            "the call: a graph that does nothing": took[NOTHING],
            f"LSTM: its {net.steps} steps": steps,
            "  of that products with the state": net.steps * of_a_step["product"],
            "  of that sigmoids and tanhs": net.steps * (of_a_step["sigmoid"] + of_a_step["tanh"]),
            "LSTM: the rest, before and after them": took["lstm"] - took[NOTHING] - steps,
            "Transpose, Squeeze, Gemm": took[WHOLE] - took["lstm"],
            "all": took[WHOLE],
        }
        columns[kind] = [in_microseconds(value) for value in values.values()]
    table = [("", *columns), *zip(values, *columns.values(), strict=True)]
    print(tabulate(table, tablefmt="plain", disable_numparse=True, colalign=("left", *["right"] * len(columns))))
    print()
    for way, kind in ((RUN, "arena"), (BOUND, "heap")):
        whole, floor = typical(seconds[CANDIDATE, way]), typical(seconds[IN_PYTHON, way])
        more = whole - typical(seconds[kind, WHOLE])
        figures = [in_microseconds(value) for value in (whole, more, floor)]
        print("{}: {} µs, {} more than in C; {} of a graph that does nothing".format(way, *figures))


def print_batches(exported: Path, rows: Floats) -> None:
    """What memory from the heap does to larger batches: why the arena is the default of `session_options`."""
    options = session_options(threads=1)
    options.enable_cpu_mem_arena = False
    runners = {"heap": OnnxRunner(exported, 1, options), "arena": OnnxRunner(exported, threads=1)}
    calls = {
        (kind, size): runner.call(Batch(np.resize(rows, (size, *rows.shape[1:])), None))
        for kind, runner in runners.items()
        for size in BATCHES
    }
    seconds = alternate(calls, rounds=ROUNDS, turn_seconds=TURN_SECONDS)
    print("\nBatches in session.run, time with memory from the heap / from the arena\n")
    for size in BATCHES:
        found = ratio(seconds["heap", size], seconds["arena", size])
        print(f"  {size:5} {found.median:.2f} ({found.low:.2f} to {found.high:.2f})")


def in_microseconds(seconds: float) -> str:
    """Two digits after the point."""
    return f"{seconds * 1e6:.2f}"
