"""Damaged files end in one line or are read; and the fuzzer sees it where one does not."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from commands.fuzz import Mutant, Target, fuzz, table_of
from commands.mutators import damage_archive, damage_bytes, damage_json, damage_protobuf
from shared.kit.stage import StageError
from tests.support import ROOT, clean_environment

import onnx


def test_no_damage_ends_in_anything_but_one_line(small_run: Path) -> None:
    """Some of what `make fuzz` tries: 30 mutants of each border."""
    command = [sys.executable, "commands/fuzz.py", "--run", str(small_run), "--mutants", "390", "--processes", "2"]
    ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    [total] = [line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("all ")]
    clean, same, other, *bad = map(int, total)
    assert clean + same + other == 390
    assert min(clean, same, other) > 0
    assert bad == [0, 0, 0]


def end_somehow(path: Path) -> object:
    """Read a file whose content says how that ends; a longer one is damaged."""
    content = path.read_text()
    ends: dict[str, Callable[[], object]] = {
        "clean!": lambda: refuse("one line"),
        "lines!": lambda: refuse("two\nlines"),
        "other!": lambda: ends["foreign"],
        "sleep!": lambda: time.sleep(60),
        "crash!": lambda: os._exit(3),
    }
    return ends[content]() if content in ends else content.removesuffix("!")


def append_call(content: bytes, _: Random) -> bytes:
    return content + b"!"


def append_question(content: bytes, _: Random) -> bytes:
    return content + b"?"


def refuse(message: str) -> None:
    raise StageError(message)


def test_each_end_is_counted_as_what_it_is(tmp_path: Path) -> None:
    expected = {
        "same": "accepted same",
        "changed": "accepted other",
        "clean": "clean error",
        "lines": "unexpected",
        "other": "unexpected",
        "sleep": "hang",
        "crash": "crash",
    }
    mutants = []
    for number, name in enumerate(expected):
        pristine = tmp_path / f"{name}.txt"
        pristine.write_text(name)
        mutate = append_question if name == "changed" else append_call
        target = Target(name, pristine, "", mutate, end_somehow, place=False)
        mutants.append(Mutant(target, number, seed=0))
    found = {mutant.target.border: ending.outcome for mutant, ending in fuzz(mutants, processes=2, seconds=2)}
    assert found == expected
    counts = {border: Counter([outcome]) for border, outcome in found.items()}
    assert table_of(counts).splitlines()[-1].split() == ["all", "1", "1", "1", "2", "1", "1"]


def test_damage_follows_from_the_seed(small_run: Path) -> None:
    file = small_run / "models/onnx/classifier-fp32.onnx"
    checkpoint = (small_run / "models/pytorch/classifier.pt").read_bytes()
    for mutate, content in (
        (damage_bytes, checkpoint),
        (damage_archive, checkpoint),
        (damage_json, b'{"a": [1, 2, {"b": null}]}'),
        (damage_protobuf(onnx.ModelProto), file.read_bytes()),
    ):
        results = [[mutate(content, Random(f"{seed} {run}")) for run in range(20)] for seed in (0, 0, 1)]
        assert results[0] == results[1] != results[2]
        assert len(set(results[0])) > 10


def test_most_damage_leaves_the_format_whole(small_run: Path) -> None:
    """Only then does it come past the parser."""
    content = (small_run / "models/onnx/classifier-fp32.onnx").read_bytes()
    mutate = damage_protobuf(onnx.ModelProto)
    assert sum(parses(onnx.ModelProto.FromString, mutate(content, Random(seed))) for seed in range(100)) > 60
    values = b'{"a": [1, 2, {"b": null}]}'
    assert sum(parses(json.loads, damage_json(values, Random(seed))) for seed in range(100)) > 60


def parses(parse: Callable[[bytes], object], content: bytes) -> bool:
    try:
        parse(content)
    except Exception:  # protobuf's own, or json's
        return False
    return True
