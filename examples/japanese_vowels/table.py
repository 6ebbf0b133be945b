"""JapaneseVowels in the long layout: a step of an utterance is a row."""

from typing import Any

import pandas as pd

DATA_SET = "JapaneseVowels"
COEFFICIENTS = 12


def make_table(recordings: list[Any]) -> pd.DataFrame:
    """A row for each step: number of the utterance, step, label, split, and twelve features."""
    return pd.concat(
        [
            pd.DataFrame(recording.channels, columns=[f"coefficient_{number + 1}" for number in range(COEFFICIENTS)])
            .rename_axis("frame")
            .reset_index()
            .assign(utterance=number, speaker=recording.label, split=recording.split)
            for number, recording in enumerate(recordings)
        ]
    )
