"""BasicMotions in the wide layout: a recording is a row, with columns `<feature>.<step>`."""

from typing import Any

import pandas as pd

DATA_SET = "BasicMotions"
FEATURES = [f"{sensor}_{axis}" for sensor in ("accelerometer", "gyroscope") for axis in "xyz"]


def make_table(recordings: list[Any]) -> pd.DataFrame:
    """A row for each recording: label, split, and 100 steps of six features."""
    return pd.DataFrame(
        [
            {"activity": recording.label, "split": recording.split}
            | {
                f"{feature}.{step}": value
                for step, values in enumerate(recording.channels)
                for feature, value in zip(FEATURES, values, strict=True)
            }
            for recording in recordings
        ]
    )
