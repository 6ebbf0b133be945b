"""Every file with its verdict and its figures."""

from typing import Any

from shared.page.run import Run


def content(run: Run) -> dict[str, Any]:
    """What is too lossy, the latencies of torch's own export, why files were not timed or formats left out."""
    timings = run.benchmark["files"]
    stock = timings.get("onnx", {}).get("stock")
    reasons = {timing.get("reason") for variants in timings.values() for timing in variants.values()}
    return {
        "lossy": [file for file in run.exported if file.parity and file.parity.get("outcome") == "too_lossy"],
        "left_out": run.benchmark.get("left_out", {}),
        "stock": stock["one_thread"]["latency_ms"] if stock else None,
        "unmeasured": sorted(reason for reason in reasons if reason),
    }
