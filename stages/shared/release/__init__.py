"""The run's files and figures in; what an app team takes, and can check on a device of its own, out.

`golden` chooses sequences and asks every file for its logits, `signature` says how a file is called, `card` describes
the model to people, `bill` to programs, `signing` signs, and `verify_bundle` goes along and checks it all. `webpage`
puts models, runtime and golden vectors into one page that runs them.
"""
