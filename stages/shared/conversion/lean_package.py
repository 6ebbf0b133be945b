"""Write a Core ML program in fewer bytes, without changing what it computes.

Beside its weights a small package is mostly the spelling of its program: coremltools gives each scalar an operation of
its own, and each operation a name twice. What is dropped here is what the format declares optional (MIL.proto:
`attributes` is "any other information", and the binding of an argument is a name "or a Value known at compile time").
Chromium's WebNN writes the packages that it runs on Core ML in the same way.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from shared.files.mlpackage import all_operations

INLINE_LIMIT = 64  # bytes of a constant; a larger one that several operations read would be repeated in each


def shrink(model: Any) -> None:
    """Rewrite a `Model` message in place: small constants inline, results named by their op and a number, no notes."""
    program = model.mlProgram
    program.attributes.pop("buildInfo", None)  # repeats the versions in the model's metadata
    for function in program.functions.values():
        for block in function.block_specializations.values():
            _inline_constants(block, {})
            _rename_results(block, fixed={*(value.name for value in function.inputs), *block.outputs})
            for operation in all_operations(block):
                operation.attributes.pop("name", None)


def _inline_constants(block: Any, outer: dict[str, Any]) -> None:
    """Put each small constant where it is used, and drop its own operation if nothing else needs it by name."""
    values = outer | {
        operation.outputs[0].name: operation.attributes["val"]
        for operation in block.operations
        if operation.type == "const"
        and operation.attributes["val"].WhichOneof("value") == "immediateValue"
        and operation.attributes["val"].ByteSize() <= INLINE_LIMIT
    }
    for operation in block.operations:
        for nested in operation.blocks:
            _inline_constants(nested, values)
        if operation.blocks:
            continue  # what a loop or a condition takes is known by name inside it
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.name in values:
                    binding.value.CopyFrom(values[binding.name])
    needed = set(_names_needed(block))
    kept = [
        operation for operation in block.operations if operation.type != "const" or operation.outputs[0].name in needed
    ]
    del block.operations[:]
    block.operations.extend(kept)


def _names_needed(block: Any) -> Iterator[str]:
    yield from block.outputs
    for operation in block.operations:
        for argument in operation.inputs.values():
            yield from (binding.name for binding in argument.arguments if binding.name)
        for nested in operation.blocks:
            yield from _names_needed(nested)


def _rename_results(block: Any, fixed: set[str]) -> None:
    """Name results `lstm_0`, `cast_1` ...; the model's own inputs and outputs keep their names."""
    counts: Counter[str] = Counter()
    names = {name: name for name in fixed}

    def new_name(old: str, kind: str) -> str:
        while old not in names:
            candidate = f"{kind}_{counts[kind]}"
            counts[kind] += 1
            if candidate not in fixed:
                names[old] = candidate
        return names[old]

    def rename(block: Any) -> None:
        for value in block.inputs:
            value.name = new_name(value.name, "input")
        for operation in block.operations:
            for argument in operation.inputs.values():
                for binding in argument.arguments:
                    if binding.name:
                        binding.name = names[binding.name]
            for nested in operation.blocks:
                rename(nested)
            for output in operation.outputs:
                output.name = new_name(output.name, operation.type)
        block.outputs[:] = [names[name] for name in block.outputs]

    rename(block)
