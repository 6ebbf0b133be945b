"""Ways to damage a file, each a function of its content and a source of randomness: equal seeds give equal damage.

Bytes know nothing of the format, and mostly test its parser. The others keep the format whole and change what it says:
JSON its values, protobuf the fields of its messages, a zip archive its members.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]

NUMBERS = (0, 1, -1, 2, 7, 255, 256, 65_535, 2**31 - 1, -(2**31), 2**32, 2**63 - 1, -(2**63), 2**64)
REALS = (0.0, -0.0, -1.0, 1e-45, 1e39, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "", "a", "a" * 5000, "../../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "\0", "\n", "\x1b[31m", "\u202e",
    "=1+1", "\ud800", "{}", "null", "main", "classes", "float32", "{'descr': 1}", "@model_path/weights/../../x",
    "é" * 300,
)  # fmt: skip


def damage_bytes(content: bytes, source: Random) -> bytes:
    """Overwrite, drop, repeat or move some bytes, or cut the file."""
    changed = bytearray(content)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        at, length = source.randrange(len(changed) + 1), source.choice((1, 1, 2, 4, 8, 64, 1000))
        part = bytes(changed[at : at + length])
        kind = source.randrange(6)
        if kind == 0:
            changed[at : at + length] = source.randbytes(length)
        elif kind == 1:
            changed[at : at + length] = b""
        elif kind == 2:
            changed[at:at] = part * source.choice((1, 2, 20))
        elif kind == 3:
            changed[at : at + 8] = source.choice(NUMBERS[:-1]).to_bytes(8, "little", signed=True)
        elif kind == 4 and changed:
            position = source.randrange(len(changed))
            changed[position] ^= 1 << source.randrange(8)
        elif source.random() < 0.2:
            del changed[at:]
    return bytes(changed)


# --- JSON ---


def damage_json(content: bytes, source: Random) -> bytes:
    """Replace, drop, rename or repeat values of a JSON file, which stays JSON; now and then damage its bytes."""
    if source.random() < 0.15:
        return damage_bytes(content, source)
    value = json.loads(content)
    for _ in range(source.choice((1, 1, 2))):
        places = list(_places(value))
        if not places or source.random() < 0.02:
            value = _any_json(source)
            continue
        holder, key = source.choice(places)
        kind = source.randrange(6)
        if kind <= 2:
            holder[key] = _any_json(source)
        elif kind == 3:
            del holder[key]
        elif kind == 4 and isinstance(holder, dict):
            holder[source.choice(TEXTS)] = holder.pop(key)
        elif isinstance(holder, list):
            holder[key:key] = [holder[key]] * source.choice((1, 3, 500))
        else:
            other, name = source.choice(places)
            holder[key] = json.loads(json.dumps(other[name])) if name in other or isinstance(other, list) else None
    return json.dumps(value).encode() if source.random() < 0.97 else _nested(source)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def _any_json(source: Random) -> Any:
    choices: tuple[Any, ...] = (
        None,
        True,
        [],
        {},
        [[]],
        {"a": {}},
        ["a"],
        [1.5],
        "5",
        source.choice(NUMBERS),
        source.choice(REALS),
    )
    return source.choice((*choices, source.choice(TEXTS), 10**400))


def _nested(source: Random) -> bytes:
    return source.choice((b"[", b'{"a":')) * source.choice((1000, 200_000))


# --- Protobuf ---


def damage_message(message: Any, source: Random) -> None:
    """Change some fields of a message, anywhere in it."""
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        parts = list(_parts(message))
        _damage_field(source.choice(parts), parts, source)


def damage_protobuf(new_message: Callable[[], Any]) -> Mutator:
    """A mutator of files that hold one message: of its fields mostly, now and then of its bytes."""

    def damage(content: bytes, source: Random) -> bytes:
        if source.random() < 0.25:
            return damage_bytes(content, source)
        message = new_message()
        message.ParseFromString(content)
        damage_message(message, source)
        changed: bytes = message.SerializePartialToString()
        if source.random() < 0.03:  # text that is not UTF-8, which protobuf itself does not write
            changed = changed.replace(source.choice((b"logits", b"sequence", b"classes", b"main")), b"\xfe\xff", 1)
        return changed

    return damage


def _parts(message: Any) -> Iterator[Any]:
    """A message and all messages in it."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        yield part
        for field, value in part.ListFields():
            if field.message_type is None:
                continue
            if _is_map(field):
                if field.message_type.fields_by_name["value"].message_type is not None:
                    waiting += [value[key] for key in sorted(value)]
            elif field.is_repeated:
                waiting += list(value)
            else:
                waiting.append(value)


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _damage_field(message: Any, parts: list[Any], source: Random) -> None:
    present = [field for field, _ in message.ListFields()]
    every = list(message.DESCRIPTOR.fields)
    if not every:
        return
    field = source.choice(present) if present and source.random() < 0.85 else source.choice(every)
    name = field.name
    if _is_map(field):
        _damage_map(getattr(message, name), field, source)
    elif field.is_repeated:
        _damage_repeated(getattr(message, name), field, parts, source)
    elif field.message_type is not None:
        alike = [part for part in parts if part.DESCRIPTOR is field.message_type]
        if source.random() < 0.4 or not alike:
            message.ClearField(name)
        else:
            copy = source.choice(alike).SerializePartialToString()
            getattr(message, name).ParseFromString(copy)
    elif source.random() < 0.1:
        message.ClearField(name)
    else:
        _set(lambda value: setattr(message, name, value), field, getattr(message, name), parts, source)


def _damage_map(entries: Any, field: Any, source: Random) -> None:
    keys = sorted(entries)
    if not keys:
        return
    key = source.choice(keys)
    if source.random() < 0.4:
        del entries[key]
        return
    other = source.choice((*(text for text in TEXTS if _encodes(text)), source.choice(keys)))
    if field.message_type.fields_by_name["value"].message_type is None:
        entries[key if source.random() < 0.7 else other] = other
    elif other != key:
        entries[other].CopyFrom(entries[key])
        del entries[key]


def _damage_repeated(values: Any, field: Any, parts: list[Any], source: Random) -> None:
    count = len(values)
    kind = source.randrange(4)
    at = source.randrange(count) if count else 0
    if kind == 0 and count:
        del values[at]
    elif kind == 1 and count:
        repeats = source.choice((1, 1, 2, 300))
        values.extend([values[at]] * repeats)
    elif kind == 2 and count > 1:
        kept = list(values)
        source.shuffle(kept)
        copies = [type(one).FromString(one.SerializePartialToString()) for one in kept] if field.message_type else kept
        del values[:]
        values.extend(copies)
    elif field.message_type is not None:
        alike = [part for part in parts if part.DESCRIPTOR is field.message_type]
        if alike:
            values.add().ParseFromString(source.choice(alike).SerializePartialToString())
        else:
            values.add()
    elif count:
        _set(lambda value: values.__setitem__(at, value), field, values[at], parts, source)
    else:
        _set(values.append, field, None, parts, source)


def _set(put: Callable[[Any], None], field: Any, value: Any, parts: list[Any], source: Random) -> None:
    """Give a field another value of its type; what its type cannot hold leaves it as it is."""
    choices: tuple[Any, ...]
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            choices = (b"", b"\xff" * 5, damage_bytes(value or b"abc", source))
        else:
            choices = (*(text for text in TEXTS if _encodes(text)), *_texts_of(parts, source))
    elif field.cpp_type in {field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE}:
        choices = REALS
    elif field.cpp_type == field.CPPTYPE_BOOL:
        choices = (not value,)
    elif field.cpp_type == field.CPPTYPE_ENUM:
        choices = (*(one.number for one in field.enum_type.values), 1000)
    else:
        choices = (*NUMBERS, *((value + 1, value - 1, value * 2) if value is not None else ()))
    try:
        put(source.choice(choices))
    except (ValueError, OverflowError, TypeError):
        return


def _texts_of(parts: list[Any], source: Random) -> list[str]:
    """Some text that stands elsewhere in the message: other names, other ops."""
    found = [value for part in source.sample(parts, min(5, len(parts))) for _, value in part.ListFields()]
    return [value for value in found if isinstance(value, str)]


def _encodes(text: str) -> bool:
    return "\ud800" not in text


# --- Archives ---


def damage_archive(content: bytes, source: Random) -> bytes:
    """Damage one member of a zip archive, whose checksums stay right; now and then its own bytes."""
    if source.random() < 0.25:
        return damage_bytes(content, source)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    chosen = source.choice([*members, *[name for name in members if name.endswith(".pkl")] * len(members)])
    kind = source.randrange(12)
    if kind == 0:
        del members[chosen]
    elif kind == 1:
        members[source.choice(("x", "../x", f"{chosen}x"))] = members.pop(chosen)
    else:
        members[chosen] = damage_bytes(members[chosen], source)
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if source.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return buffer.getvalue()
