"""Metrics in; the page, its pictures and the summary out.

`run.py` reads what the stages found; each file in `sections/` shows a part of it, and `page.py` puts them together.
"""
