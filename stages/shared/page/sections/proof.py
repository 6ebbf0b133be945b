"""How far each file is from what it should be: its weights, its graph, and its logits against PyTorch's."""

from typing import Any

from shared.page.run import Run


def content(run: Run) -> dict[str, Any]:
    """The files that were compared with PyTorch, and what is to be known of them that is not their fault."""
    compared = [file for file in run.exported if file.parity and "relative_error" in file.parity]
    net = run.reference.parity or {}
    notes: dict[str, list[str]] = {note: ["PyTorch"] for note in net.get("notes", [])}
    for file in compared:
        for note in (file.parity or {}).get("notes", []):
            notes.setdefault(note, []).append(file.file)
    everyone = [file.file for file in compared]
    return {
        "compared": compared,
        "notes": {note: ["all files"] if files == everyone else files for note, files in notes.items()},
    }
