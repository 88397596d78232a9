"""How the messages of the operation table are laid out, and what of an earlier layout is gone."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import inspect

from hsmbridge.core.operations import OPERATIONS, Operation
from tests.wire_corpus import Layout

Struct = type[msgspec.Struct]
_OR = " | "


def layout_of(operations: Mapping[int, Operation] = OPERATIONS) -> Layout:
    """The layout of all messages that operations have, with what is nested in them."""
    structs: dict[str, list[tuple[str, str]]] = {}
    enums: dict[str, list[str | int]] = {}
    for row in operations.values():
        for message in (row.request, row.response):
            for type_ in _within(inspect.type_info(message)):
                if isinstance(type_, inspect.StructType):
                    structs[_name(type_)] = [(field.encode_name, _text(field.type)) for field in type_.fields]
                else:
                    enums[type_.cls.__name__] = sorted(value.value for value in type_.cls)
    named = {opcode: (row.name, row.request.__name__, row.response.__name__) for opcode, row in operations.items()}
    return Layout(dict(sorted(named.items())), dict(sorted(structs.items())), dict(sorted(enums.items())))


def broken(earlier: Layout, now: Layout) -> Iterator[str]:
    """What a client or daemon of the earlier layout does not understand any more, one sentence each."""
    for opcode, row in earlier.operations.items():
        if now.operations.get(opcode) != row:
            yield f"operation {opcode:#06x} was {row}, and is {now.operations.get(opcode)}"
    for name, fields in earlier.structs.items():
        present = now.structs.get(name, [])
        for place, field in enumerate(fields):
            if place >= len(present) or not _understands(present[place], field):
                yield f"field {place} of {name} was {field}, and is {present[place] if place < len(present) else None}"
    for name, values in earlier.enums.items():
        for value in values:
            if value not in now.enums.get(name, []):
                yield f"{name} lost its value {value!r}"


def required_additions(earlier: Layout, messages: Iterable[Struct]) -> Iterator[str]:
    """Fields that an earlier sender does not know to send, and that have no default."""
    for message in messages:
        for type_ in _within(inspect.type_info(message)):
            if isinstance(type_, inspect.StructType):
                for field in type_.fields[len(earlier.structs.get(_name(type_), type_.fields)) :]:
                    if field.required:
                        yield f"{_name(type_)}.{field.name} was added and has no default"


def _understands(now: tuple[str, str], earlier: tuple[str, str]) -> bool:
    """The same field; where it holds one of several tagged structs, there may be more of them now."""
    if now[0] != earlier[0]:
        return False
    present, former = set(now[1].split(_OR)), set(earlier[1].split(_OR))
    return former <= present and all(one.endswith(")") for one in present - former)


def _within(type_: inspect.Type) -> Iterator[inspect.StructType | inspect.EnumType]:
    match type_:
        case inspect.StructType():
            yield type_
            for field in type_.fields:
                yield from _within(field.type)
        case inspect.UnionType():
            for one in type_.types:
                yield from _within(one)
        case inspect.CollectionType():
            yield from _within(type_.item_type)
        case inspect.DictType():
            yield from _within(type_.value_type)
        case inspect.EnumType():
            yield type_
        case _:
            return


def _text(type_: inspect.Type) -> str:
    """A type in words that do not change when it gets other bounds or another Python name for a list."""
    match type_:
        case inspect.StructType():
            return _name(type_)
        case inspect.EnumType():
            return type_.cls.__name__
        case inspect.UnionType():
            return _OR.join(sorted(_text(one) for one in type_.types))
        case inspect.CollectionType():
            return f"list of {_text(type_.item_type)}"
        case inspect.DictType():
            return f"map of {_text(type_.key_type)} to {_text(type_.value_type)}"
        case _:
            return type(type_).__name__.removesuffix("Type").lower()


def _name(type_: inspect.StructType) -> str:
    return type_.cls.__name__ if type_.tag is None else f"{type_.cls.__name__} ({type_.tag})"
