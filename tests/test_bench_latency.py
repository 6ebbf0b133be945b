"""The benchmark of latency: the program in C, what candidates promise, and the other graphs of the net."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import export_onnx
from commands.benchmarks.c_timer import CCall, open_in_c
from commands.benchmarks.latency import print_candidates, print_targets
from commands.benchmarks.latency_candidates import (
    BOUND,
    KEPT,
    OPTIONS,
    RUN,
    STOCK,
    Asked,
    Candidate,
    ask_exported,
    broken,
    candidate,
    ways_to_call,
)
from commands.benchmarks.lstm_graphs import GRAPHS, Net, fixed_batch, lstm_alone, read_net
from shared.execution.runtimes import open_session
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, classifier, or_skip

import numpy as np
import pytest

BATCH_FIRST = "LSTM with layout=1, no Transpose"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "classifier-fp32.onnx"
    path.write_bytes(export_onnx.export_onnx(Checkpoint(classifier("lstm"), {}), EXPORT_NAMES, 20).lean)
    return path


@pytest.fixture(scope="module")
def net(exported: Path) -> Net:
    return read_net(exported.read_bytes())


@pytest.fixture(scope="module")
def asked(exported: Path) -> Asked:
    return ask_exported(exported, np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32))


def promises(path: Path, asked: Asked, again: bytes) -> str:
    return broken(open_session(path, threads=1), asked, path.read_bytes(), again)


@contextmanager
def in_c(models: list[tuple[str, Path]], values: np.ndarray, folder: Path) -> Iterator[list[CCall]]:
    opened = open_in_c(models, values, folder)
    calls = or_skip(opened.__enter__)
    try:
        yield calls
    finally:
        opened.__exit__(None, None, None)


def test_the_program_in_c_computes_and_times_what_it_is_asked_for(exported: Path, asked: Asked, tmp_path: Path) -> None:
    """Compiled without a warning; the same logits wherever the memory comes from, also after many calls."""
    models = [(kind, exported) for kind in ("arena", "heap", "pool")]
    with in_c(models, asked.rows[0], tmp_path) as calls:
        for call in calls:
            np.testing.assert_allclose(call.output, asked.expected[0], rtol=1e-6)
        [once] = calls[1].repeat(0)
        assert once > 0
        many = calls[2].repeat(0.02)
        assert len(many) > 1
        assert 0.01 < sum(many) < 10


def test_the_program_in_c_says_what_it_cannot_open(exported: Path, asked: Asked, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(exported.read_bytes()[:-100])
    (tmp_path / "c").mkdir()
    with (
        pytest.raises(RuntimeError, match=r"^latency: error: ONNX Runtime: .*damaged\.onnx failed"),
        in_c([("heap", exported), ("pool", damaged)], asked.rows[0], tmp_path / "c"),
    ):
        pass


def test_the_exported_file_keeps_its_promises(exported: Path, asked: Asked) -> None:
    assert promises(exported, asked, exported.read_bytes()) == KEPT


def test_a_broken_promise_is_named(exported: Path, net: Net, asked: Asked, tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.onnx"
    fixed.write_bytes(fixed_batch(net))
    assert promises(fixed, asked, fixed.read_bytes()) == "batch fixed"
    assert promises(exported, asked, b"") == "other bytes when made again"
    other = Asked(asked.rows, asked.expected * np.float32(1 + 1e-5))
    assert promises(exported, other, exported.read_bytes()) == "logits 1e-05 off"


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != BATCH_FIRST])
def test_every_graph_is_of_the_same_net(name: str, net: Net, asked: Asked, tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(GRAPHS[name](net))
    assert promises(path, asked, GRAPHS[name](net)) in {KEPT, "batch fixed"}


def test_an_lstm_over_more_steps_has_the_state_of_fewer_on_its_way(net: Net, tmp_path: Path) -> None:
    """The parts that are timed alone are the net's own."""
    path, values = tmp_path / "lstm.onnx", np.ones((3, 1, 2), np.float32)
    path.write_bytes(lstm_alone(net, 3))
    [state] = open_session(path, threads=1).run(None, {"x": values})
    path.write_bytes(lstm_alone(net, 5))
    [other] = open_session(path, threads=1).run(None, {"x": np.ones((5, 1, 2), np.float32)})
    assert state.shape == other.shape == (1, 1, net.hidden)
    assert not np.allclose(state, other)


def test_what_the_runtime_refuses_is_told_with_its_reason(net: Net, asked: Asked, tmp_path: Path) -> None:
    """And if it comes to read (batch, time, features), a node less is worth a look."""
    path = tmp_path / "graph.onnx"
    path.write_bytes(GRAPHS[BATCH_FIRST](net))
    refused = candidate(path, lambda runner: runner.bound_call(asked.one), asked, path.read_bytes(), lambda _: None)
    assert refused.call is None
    assert "layout == 1) are not supported" in refused.promises


@pytest.mark.parametrize("name", OPTIONS)
def test_every_session_option_gives_the_same_logits(name: str, exported: Path, asked: Asked) -> None:
    found = candidate(
        exported, lambda runner: runner.bound_call(asked.one), asked, exported.read_bytes(), OPTIONS[name]
    )
    assert found.call is not None
    assert found.promises == ("batch fixed" if name.startswith("free dimension") else KEPT)


def test_a_candidate_that_cannot_be_run_is_in_the_table_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    candidates = {STOCK: Candidate(lambda: None, KEPT, 1000), "C API": Candidate(None, "cc is not installed", 0)}
    seconds = {("candidate", STOCK): [np.array([2e-6, 3e-6, 4e-6])]}
    print_candidates(candidates, seconds)
    print_targets(seconds | {("candidate", "torch eager"): [np.array([1e-4])]})
    table = capsys.readouterr().out
    assert f"{STOCK}  3.00     2.02   1.00    1.00-1.00        1.00  1,000 B" in table
    assert "\nnot run: C API: cc is not installed\n" in table
    assert "I/O binding, memory from the heap / stock export of tutorial's model: not run   target 0.45\n" in table


def test_every_way_to_call_the_file_gives_its_logits(exported: Path, asked: Asked) -> None:
    ways = ways_to_call(exported, asked, exported.read_bytes())
    assert [name for name, way in ways.items() if way.default] == [RUN, BOUND]
    for way in ways.values():
        assert callable(way.call)
        logits = way.call()
        array = logits.numpy() if hasattr(logits, "numpy") else logits
        np.testing.assert_allclose(np.asarray(array), asked.expected[:1], rtol=1e-6)
