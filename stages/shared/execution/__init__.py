"""Any file in; logits, or the time that they take, out.

`runtimes` opens a file with the runtime that its users have, `predictions` reads what was recorded; `runners`, `timing`
and `cold_start` take the time.
"""
