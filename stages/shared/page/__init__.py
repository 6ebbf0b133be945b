"""Metrics in; the page, its pictures and the summary out."""
