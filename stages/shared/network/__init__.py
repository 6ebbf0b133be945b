"""Sizes and options in; a classifier out, and through its checkpoint in again.

`architectures` holds one file a net, `model` what surrounds each of them: standardisation, lengths, the checkpoint.
"""
