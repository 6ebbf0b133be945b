"""Measure the speed of this project, as ratios in one run: machines differ and are noisy, ratios are steadier.

    python commands/bench.py [SECTION ...]

A clone of the last commit in a temporary folder is reproduced, from nothing for the section `pipeline`, otherwise with
what is in this project's cache; its data and models serve the other sections. Run it on an otherwise idle machine; it
takes some minutes. A target whose figure this machine cannot tell from it is called noisy, and not judged.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "stages"), str(PROJECT)]

from commands.benchmarks.judging import load_in_words  # noqa: E402 - after the path to it
from commands.benchmarks.surroundings import clone_project, environment, machine_in_words  # noqa: E402

SECTIONS = {
    "pipeline": "a cold and an unchanged dvc repro, stage by stage",
    "training": "the default training against the tutorial's loop, mini-batches against a bare loop",
    "threads": "mini-batches by threads and by processes, for narrow and for wide nets",
    "seeds": "what the default recipe is worth on unseen rows, from ten seeds",
    "latency": "one sequence through the exported file, the stock export and PyTorch",
    "architectures": "every architecture, untrained: sizes and latency",
    "evaluator": "our evaluator of Core ML programs against torch eager, every architecture, 6 and 100 steps",
}
"""Modules of `commands.benchmarks`, in the order in which they run."""


def make_clone(folder: Path, *, cold: bool) -> Path:
    """The last commit, with data and models unless the section `pipeline` is to make them.

    Raises:
        SystemExit: Its `dvc repro` fails.
    """
    clone = folder / "clone"
    clone_project(clone)
    if not cold:
        cache = ["cache", "dir", "--local", str(PROJECT / ".dvc" / "cache")]
        for arguments in (cache, ["repro"]):
            command = [sys.executable, "-m", "dvc", *arguments]
            done = subprocess.run(command, cwd=clone, env=environment(), capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"bench: error: dvc {arguments[0]} failed: {done.stderr}")
    return clone


def main() -> None:
    """Run the sections that were asked for, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="sections:\n" + "\n".join(f"  {name:<15} {what}" for name, what in SECTIONS.items()),
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", default=list(SECTIONS), help="all, unless some are named"
    )
    chosen = parser.parse_args().sections
    if unknown := [name for name in chosen if name not in SECTIONS]:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    print(machine_in_words())
    print(load_in_words())
    with tempfile.TemporaryDirectory() as folder:
        clone = make_clone(Path(folder), cold="pipeline" in chosen)
        os.chdir(clone)
        for name in SECTIONS:
            if name in chosen:
                import_module(f"commands.benchmarks.{name}").bench(clone)
        os.chdir(PROJECT)


if __name__ == "__main__":
    main()
