"""A model's file in; what it is, what it holds and how large it is out, without running it.

`artifacts` knows formats and names, `mlpackage` and `onnx_graph` walk over the two formats, `inspection` takes the
facts, `quiet` imports coremltools.
"""
