"""A trained net in; what a device trains further with ONNX Runtime's training API, and proofs that it does, out.

`trainable` writes the net as ONNX with every weight under PyTorch's name. `make_artifacts` is a program of its own, run
by `environment` in packages of its own: ONNX Runtime's training package ended at 1.19.2, and cannot be installed beside
today's. `trial` is the data of another sensor, on which the artifacts are tried.
"""
