"""A model's file in; what it is, what it holds and how large it is out, without running it.

`formats` lists the formats, `artifacts` finds their files, `mlpackage` and `onnx_graph` walk over what two of them
hold, `inspection` takes the facts, `requirements`, `accelerators` and `integer_sums` say what a file asks of a device
or gains there, `quiet` imports coremltools and others.
"""
