"""The parts of `commands/sweep.py`.

page                 a study -> one page
study                a search space and its trials so far -> the next trial
cluster              trials -> outcomes, on Ray
space                a YAML file -> a validated search space
pipeline             dvc.yaml -> which stages a parameter touches
worker, trial        what runs on the nodes; nothing but the standard library, Ray and DVC
"""
