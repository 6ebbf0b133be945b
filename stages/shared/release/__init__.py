"""The run's files and figures in; what an app team takes, and can check on a device of its own, out.

`golden` chooses sequences and asks every file for its logits, `signature` says how a file is called, `card` describes
the model to people, `bill` to programs, `ort_format` converts, `signing` signs. `verify_bundle` goes along and checks
it all, and so do `verifiers/`, in the languages of apps. `webpage` puts models, runtime and golden vectors into one
page that runs them.
"""
