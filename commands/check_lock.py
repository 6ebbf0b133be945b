"""Say what to do about a dvc.lock that is cut off, as DVC leaves it if it is interrupted while it writes it.

DVC's own message about it depends on where it ends, and some are tracebacks. Prints nothing if the file is whole.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

LOCK = Path("dvc.lock")


def is_whole(text: str) -> bool:
    """Whether every stage in it has a command, and every file of a stage its hash."""
    try:
        content: Any = YAML(typ="safe").load(text)
        return text.endswith("\n") and all(
            stage["cmd"] and all("md5" in file or "hash" not in file for file in stage.get(kind, []))
            for stage in content["stages"].values()
            for kind in ("deps", "outs")
        )
    except Exception:  # whatever a parser makes of half a file
        return False


def main() -> None:
    """Look, and speak."""
    if not LOCK.exists() or is_whole(LOCK.read_text(encoding="utf-8", errors="replace")):
        return
    committed = subprocess.run(["git", "cat-file", "-e", f"HEAD:./{LOCK}"], capture_output=True, check=False)
    repair = f"git checkout {LOCK}" if committed.returncode == 0 else f"rm {LOCK}"
    print(
        f"{LOCK} is cut off, as by Ctrl-C while DVC wrote it. Repair: `{repair}`, then `make repro`: "
        "the stages that were finished come from DVC's cache and do not run again",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
