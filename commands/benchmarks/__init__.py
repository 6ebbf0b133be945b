"""Sections of `commands/bench.py`, a module each.

A section takes a reproduced clone of the project and prints what it measured. `judging` decides for all of them whether
a target is met, or whether the machine was too noisy to say so.
"""
