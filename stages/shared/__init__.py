"""What the stages share: the kit of every stage here (`stage`, `params`), and a folder for each wing of the house.

    page                                       figures -> the page
    judging                                    logits -> wrong, too lossy, or fit to ship
    execution, training, conversion            a file -> logits; sequences -> weights; a checkpoint -> files
    data, network, files, coreml_reference     tables, nets, files and Core ML programs as such

A wing imports from the kit and from wings further down alone; `coreml_reference` imports nothing but itself.

Importing anything from here first pins which numeric kernels the libraries choose, because the last bits of a result
depend on them. They are read from the environment when torch, numpy and their BLAS load, so every file imports
`shared` before them (the import order that `ruff` enforces here). On x86-64 the floor is AVX2, which every such CPU has
had since about 2013; a variable that is already set is left alone. Elsewhere (arm64) nothing is pinned, and equal bytes
are promised on the same kind of machine only.
"""

import os
import platform
from pathlib import Path

AVX2_KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "MKL_CBWR": "COMPATIBLE",  # torch's BLAS: the only code path that MKL takes on every vendor's CPU
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's LSTM
    "OPENBLAS_CORETYPE": "HASWELL",  # numpy's BLAS: the AVX2 kernels
    "OPENBLAS_NUM_THREADS": "1",  # how the work is divided changes the order of the sums
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",  # numpy's exp, tanh...
}


def has_avx2() -> bool:
    """Whether this is an x86-64 machine whose CPU has AVX2 (asked of Linux; no torch 2.13 exists for an Intel Mac)."""
    cpuinfo = Path("/proc/cpuinfo")
    return platform.machine() == "x86_64" and cpuinfo.exists() and " avx2 " in cpuinfo.read_text()


if has_avx2():
    for variable, value in AVX2_KERNELS.items():
        os.environ.setdefault(variable, value)
