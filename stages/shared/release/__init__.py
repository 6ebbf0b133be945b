"""The run's files and figures in; what an app team takes, and can check on a device of its own, out.

`golden` chooses sequences and asks every file for its logits, `webpage` puts models, runtime and golden vectors into
one page that runs them.
"""
