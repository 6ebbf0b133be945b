"""The prepared data: its splits, classes and features."""
