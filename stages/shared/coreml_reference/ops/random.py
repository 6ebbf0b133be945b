"""Ops that draw random numbers, which are refused."""

from shared.coreml_reference.registry import refuse

REASON = (
    "draws random numbers with a generator that Core ML does not publish, so no other runtime can reproduce its values"
)

for _op_type in ("random_bernoulli", "random_categorical", "random_normal", "random_uniform"):
    refuse(_op_type, REASON)
