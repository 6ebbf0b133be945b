"""A checkpoint or a file in; a leaner, smaller or byte-stable file of another format or precision out.

`export` is the interface that both exporters write, `lean_graph` and `lean_package` take away what computes nothing,
`coreml_gru`, `coreai_recurrent` and `coreai_decompositions` convert what the vendors' converters do badly,
`compression` judges what a variant achieved, and `canonical` and `coreai_canonical` make equal models equal bytes.
"""
