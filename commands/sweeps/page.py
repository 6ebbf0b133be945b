from pathlib import Path
from typing import Any


def write_page(path: Path, study: Any, space: Any, *, title: str, revision: str) -> None:
    path.write_text(title)
