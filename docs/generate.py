"""Writes docs/reference/ from the tables and types of the code; `--check` names the pages that are out of date.

    ./dev docs            write
    ./dev docs --check    exit status 1, and the stale pages on stderr

One function a page. Nothing here knows an algorithm, a status or a key by name: what a page says comes from the row,
or from what the code does when it is asked.
"""

import argparse
import enum
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import cleandoc
from itertools import combinations
from pathlib import Path
from typing import cast, get_args

import msgspec
from msgspec import inspect

from hsmbridge.config import ByteSize, Config, FileMode, FrontEnds, expected
from hsmbridge.core.algorithms import ALGORITHMS, PERMISSION_FOR, Algorithm, KeyOperation, Kind
from hsmbridge.core.errors import STATUS_TABLE, Category, RequestError, error
from hsmbridge.core.key_types import KEY_TYPES, Family, KeyType
from hsmbridge.core.lifecycle import TRANSITIONS, USABLE
from hsmbridge.core.operations import OPERATIONS, Operation
from hsmbridge.core.permissions import KeyOperationPermission, check_separation, permission_names

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
PINNED = ROOT / "tests" / "conformance" / "pinned_rows.toml"

YES = "yes"


# --- Markdown ---------------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """A paragraph on one line."""
    return " ".join(text.split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. Cells are text: what Markdown would take for its own is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(value: object) -> str:
    """A value as code, or nothing where there is none."""
    return f"`{value}`" if value not in ("", None) else ""


def codes(values: Iterable[object]) -> str:
    """Values as code, in one cell."""
    return ", ".join(f"`{value}`" for value in values)


def number(value: int | None, digits: int = 0) -> str:
    """A registry's number in hexadecimal, or nothing."""
    return "" if value is None else f"`{value:#0{digits + 2}x}`" if digits else f"`{value:#x}`"


def mark(holds: bool) -> str:
    """A yes, or an empty cell."""
    return YES if holds else ""


def size(count: int) -> str:
    """A number of bytes, or nothing for 0."""
    return str(count) if count else ""


def anchor(heading: str) -> str:
    """The fragment that a heading gets."""
    kept = (character for character in heading.lower() if character.isalnum() or character in " -_")
    return "".join(kept).replace(" ", "-")


def getdoc(cls: type) -> str:
    """A class's own docstring."""
    return cleandoc(cls.__dict__.get("__doc__") or "")


def sentence(text: str) -> str:
    """The first paragraph of a docstring, on one line."""
    return prose(text.split("\n\n", maxsplit=1)[0])


# --- What providers do ------------------------------------------------------------------------------------------------


class Backend(msgspec.Struct, frozen=True):
    """A table of pinned_rows.toml, as far as a page tells of it."""

    key_types: list[str]
    imports: list[str]
    algorithms: dict[str, list[str]]


HEADS: Mapping[str, str] = {
    "software": "software",
    "oqs": "oqs",
    "softhsm": "SoftHSM",
    "softokn": "softokn",
    "kryoptic": "kryoptic",
    "tpm": "swtpm",
}
"""The columns in order, by the tables of pinned_rows.toml; one that is not here comes last, under its own name."""

STANDS_FOR: Mapping[str, str] = {
    "software": "keys of the `cryptography` library",
    "oqs": "liboqs, as `./dev liboqs` builds it",
    "softhsm": "a PKCS#11 provider over SoftHSM 2.6",
    "softokn": "one over the token of NSS",
    "kryoptic": "one over kryoptic, a token with PKCS#11 3.2, as `./dev kryoptic` builds it; run with `--all`",
    "tpm": "a TPM provider over swtpm",
}


def backends() -> Mapping[str, Backend]:
    """What the conformance suite runs, by provider, in the order of the columns."""
    read = msgspec.convert(tomllib.loads(PINNED.read_text()), dict[str, Backend])
    return {name: read[name] for name in (*HEADS, *read) if name in read}


def by_provider(name: str) -> str:
    """The providers that an algorithm runs on."""
    return ", ".join(HEADS.get(one, one) for one, pinned in backends().items() if name in pinned.algorithms)


# --- Pages ------------------------------------------------------------------------------------------------------------


def algorithms_page() -> str:
    """algorithms.md"""
    parts = [
        "# Algorithms",
        prose("""
            What operations take. `CKM`: PKCS#11 v3.2 mechanism. `TPM`: TPM_ALG_ID of the scheme. `JOSE`, `COSE`: the
            IANA registries. Sizes are in bytes: of the nonce, the tag, and of signature, MAC or digest where it is
            fixed (ECDSA: r and s; the API gives DER). FIPS: approved by NIST. PQ: believed to resist a quantum
            computer. A *legacy* row verifies and decrypts what exists and makes nothing new.
            *Provided by* lists the providers that the conformance suite runs it on; an empty cell means that the row
            is in the table and no provider has it yet. [Which operations each provider has](providers.md).
        """),
    ]
    for kind in Kind:
        rows = [row for row in ALGORITHMS.values() if row.kind is kind]
        parts += [
            f"## {kind[0].upper()}{kind[1:]}",
            f"Operations: {codes(kind.operations)}.",
            table(
                ["name", "key types", "CKM", "TPM", "JOSE", "COSE", "sizes", "FIPS", "PQ", "status", "provided by"],
                [algorithm_row(row) for row in rows],
            ),
        ]
    return "\n\n".join(parts)


def algorithm_row(row: Algorithm) -> Sequence[str]:
    """One line of algorithms.md."""
    sizes = ((row.nonce_size, "nonce"), (row.tag_size, "tag"), (row.output_size, "output"))
    return (
        code(row.name),
        key_types_cell(row),
        number(row.ckm),
        number(row.tpm_alg, 4),
        code(row.jose),
        "" if row.cose is None else str(row.cose),
        ", ".join(f"{name} {count}" for count, name in sizes if count),
        mark(row.fips),
        mark(row.postquantum),
        row.maturity,
        by_provider(row.name),
    )


def key_types_cell(row: Algorithm) -> str:
    """Key types of an algorithm; whole families by their name."""
    left = list(row.key_types)
    cells = []
    for family in Family:
        members = [member.name for member in KEY_TYPES.values() if member.family is family]
        if len(members) > 1 and set(members) <= set(left):
            cells.append(f"any {family}")
            left = [name for name in left if name not in members]
    return ", ".join(cells + [code(name) for name in left])


def key_types_page() -> str:
    """key-types.md"""
    pinned = backends()
    parts = [
        "# Key types",
        prose("""
            What slots hold. `CKK`, `generation`: PKCS#11 v3.2 key type and generation mechanism. *Template*: how
            tpm2-pytss names the TPM template. *Permissions* are those that mean anything for such a key; others are
            refused. *Generated by* lists the providers on which the conformance suite makes one. Algorithms that take
            each are in [algorithms](algorithms.md).
        """),
    ]
    head = [
        "name",
        "bits",
        "CKK",
        "generation",
        "curve",
        "SPKI",
        "template",
        "permissions",
        "FIPS",
        "PQ",
        "generated by",
    ]
    for family in Family:
        rows = [row for row in KEY_TYPES.values() if row.family is family]
        lines = [
            key_type_row(row, [HEADS.get(name, name) for name, one in pinned.items() if row.name in one.key_types])
            for row in rows
        ]
        parts += [f"## {family[0].upper()}{family[1:]}", table(head, lines)]
    return "\n\n".join(parts)


def key_type_row(row: KeyType, generated_by: Sequence[str]) -> Sequence[str]:
    """One line of key-types.md."""
    return (
        code(row.name),
        str(row.bits),
        number(row.ckk),
        number(row.key_gen),
        code(row.ec_parameters),
        code(row.spki_oid),
        code(row.tpm_template),
        ", ".join(permission_names(row.permissions)),
        mark(row.fips),
        mark(row.postquantum),
        ", ".join(generated_by),
    )


def statuses_page() -> str:
    """statuses.md"""
    parts = [
        "# Statuses",
        prose("""
            One table for every front end. The number is on the wire; the exit code is what `hsmbridge` ends with; CKR
            and HTTP are what a PKCS#11 and a REST front end answer. Numbers and exit codes never change. The text is
            what a client reads where the place that failed has nothing more exact to say.
        """),
    ]
    for category in Category:
        rows = [(status, row) for status, row in STATUS_TABLE.items() if status.category is category]
        if category is not Category.SUCCESS:
            classes = sorted({type(error(status)).__name__ for status, _ in rows})
            parts += [f"## {category.value:02X} {category.name.lower()}", f"Exceptions: {codes(classes)}."]
        parts.append(
            table(
                ["number", "name", "exit code", "CKR", "HTTP", "text"],
                [
                    (
                        number(status, 8),
                        code(status.name),
                        str(row.exit_code),
                        number(row.ckr, 8),
                        str(row.http),
                        row.summary,
                    )
                    for status, row in rows
                ],
            )
        )
    return "\n\n".join(parts)


def permissions_page() -> str:
    """permissions.md"""
    rows = []
    for bit in KeyOperationPermission:
        operations = [operation for operation, needed in PERMISSION_FOR.items() if needed is bit]
        kinds = [kind for kind in Kind if set(kind.operations) & set(operations)]
        rows.append(
            (
                str(bit.bit_length() - 1),
                number(bit),
                ", ".join(permission_names(bit)),
                codes(row.name for row in OPERATIONS.values() if bit in {one.permission for one in row.requires}),
                ", ".join(kinds),
                ", ".join(family for family in Family if fits(family, bit)),
            )
        )
    return "\n\n".join(
        [
            "# Permissions",
            prose("""
                A key carries a bitmask of these. No bit implies another. `export` lets a key leave: be wrapped by
                another key; `generate` lets a holder of the slot have a new version made there (rotate, derive, agree
                and import into it). The slot's mask is a ceiling: an access entry and a key version can have less,
                never more, and a permission that was taken away does not come back.
            """),
            table(["bit", "value", "name", "operations that need it", "kinds of algorithm", "key families"], rows),
            "## What may not stand on one key",
            prose("""
                Refused when the key is made (`INVALID_PERMISSIONS`), for with both bits a caller could take a wrapped
                key apart or put a known one in.
            """),
            table(["pair", "for"], list(inseparable())),
        ]
    )


def fits(family: Family, bit: KeyOperationPermission) -> bool:
    """Whether a permission means anything for keys of a family."""
    return any(bit in row.permissions for row in KEY_TYPES.values() if row.family is family)


def inseparable() -> Iterator[Sequence[str]]:
    """The pairs of permissions that are refused, found by asking."""
    for first, second in combinations(KeyOperationPermission, 2):
        names = " and ".join(permission_names(first | second))
        if not separates(first | second, rsa=False):
            yield names, "every key"
        elif not separates(first | second, rsa=True):
            yield names, "RSA keys, unless their slot says `sign_and_decrypt`"


def separates(permissions: KeyOperationPermission, *, rsa: bool) -> bool:
    """Whether a key may have these permissions."""
    try:
        check_separation(permissions, rsa=rsa)
    except RequestError:
        return False
    return True


def operations_page() -> str:
    """operations.md"""
    return "\n\n".join(
        [
            "# Operations",
            prose("""
                Everything a client can ask for. *Needs* is what must hold before a provider is called: a permission of
                the key that a field names, or the role administer on the slot. *Into slot* names the field that makes
                the result a new version of a slot, which needs `generate` there. An idempotent operation may be sent
                again after a lost connection; many requests of a batchable one may travel in one frame. The messages
                are laid out in [messages](messages.md); how they travel is in
                [the native protocol](../native-protocol.md).
            """),
            table(
                ["opcode", "name", "needs", "into slot", "idempotent", "batchable", "messages"],
                [operation_row(row) for row in OPERATIONS.values()],
            ),
        ]
    )


def operation_row(row: Operation) -> Sequence[str]:
    """One line of operations.md."""
    needs = [f"`{one.field}`: {', '.join(permission_names(one.permission)) or 'live'}" for one in row.requires]
    needs += [f"`{row.administers}`: administer"] if row.administers else []
    return (
        number(row.opcode, 4),
        code(row.name),
        "; ".join(needs),
        code(row.into_slot),
        mark(row.idempotent),
        mark(row.batchable),
        f"{message_link(row.request)} → {message_link(row.response)}",
    )


def message_link(message: type[msgspec.Struct]) -> str:
    """A link to a message's layout."""
    return f"[{message.__name__}](messages.md#{anchor(message.__name__)})"


def messages_page() -> str:
    """messages.md"""
    messages = list(dict.fromkeys(one for row in OPERATIONS.values() for one in (row.request, row.response)))
    found = dict.fromkeys([*messages, *nested(messages)])
    kdfs = [one for one in found if one.__struct_config__.tag]
    others = [one for one in found if one not in messages and one not in kdfs]
    parts = [
        "# Messages",
        prose("""
            A message is a MessagePack array of its fields in this order. Fields at the end that have a default may be
            left out; a reader skips fields beyond those that it knows. `bin` is MessagePack's bin format, `str` its
            UTF-8 string. Times are seconds since 1970.
        """),
        "## Requests and replies",
        *(part for message in messages for part in message_parts(message)),
        "## Parts of messages",
        *(part for message in others for part in message_parts(message)),
        "## Parameters of key derivation functions",
        "The first element is the name that tells which one it is.",
        *(part for message in kdfs for part in message_parts(message)),
    ]
    return "\n\n".join(parts)


def nested(messages: Iterable[type[msgspec.Struct]]) -> Iterator[type[msgspec.Struct]]:
    """The structs in messages, at any depth."""
    for message in messages:
        inside = [found for field in struct_type(message).fields for found in structs_in(field.type)]
        yield from inside
        yield from nested(inside)


def structs_in(type_: inspect.Type) -> Iterator[type[msgspec.Struct]]:
    """The structs that a field's type names."""
    if isinstance(type_, inspect.StructType):
        yield type_.cls
    elif isinstance(type_, inspect.UnionType):
        for one in type_.types:
            yield from structs_in(one)
    elif isinstance(type_, inspect.VarTupleType | inspect.ListType):
        yield from structs_in(type_.item_type)


def struct_type(message: type[msgspec.Struct]) -> inspect.StructType:
    """The fields of a struct, as a decoder sees them."""
    return cast(inspect.StructType, inspect.type_info(message))


def attributes_of(cls: type) -> Mapping[str, str]:
    """What the Attributes section of a docstring says of each field."""
    found: dict[str, str] = {}
    names: list[str] = []
    _, _, section = getdoc(cls).partition("Attributes:\n")
    for line in section.splitlines():
        head, colon, text = line.partition(": ")
        if line.startswith("    ") and line[4:5].isalpha() and colon:
            names = head.replace(",", " ").split()
            found |= dict.fromkeys(names, text)
        elif line.startswith("     "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            break
    return found


def message_parts(message: type[msgspec.Struct]) -> Sequence[str]:
    """Heading, explanation and fields of a message."""
    info = struct_type(message)
    meanings = attributes_of(message)
    rows = [
        (str(index), code(field.name), type_text(field.type), default_text(field), meanings.get(field.name, ""))
        for index, field in enumerate(info.fields, 1 if info.tag else 0)
    ]
    if info.tag:
        rows.insert(0, ("0", "", code(f'"{info.tag}"'), "", ""))
    columns = 5 if meanings else 4
    head = ("", "field", "type", "default", "meaning")[:columns]
    fields = table(head, [row[:columns] for row in rows]) if rows else "No fields: an empty array."
    explained = sentence(getdoc(message))
    return (f"### {message.__name__}", *([explained] if explained else []), fields)


def type_text(type_: inspect.Type) -> str:
    """A field's type as it travels."""
    match type_:
        case inspect.StructType(cls=cls):
            return f"[{cls.__name__}](#{anchor(cls.__name__)})"
        case inspect.EnumType(cls=cls):
            members = cast(Iterable[enum.Enum], cls)
            if issubclass(cls, int):
                return f"one of {', '.join(f'`{member.value}` {member.name}' for member in members)}"
            return f"one of {codes(member.value for member in members)}"
        case inspect.UnionType(types=types):
            names = [type_text(one) for one in types if not isinstance(one, inspect.NoneType)]
            return " or ".join([*names, *(["nil"] if type_.includes_none else [])])
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return f"array of {type_text(item)}"
        case inspect.DictType(key_type=key, value_type=value):
            return f"table of {type_text(key)} to {type_text(value)}"
        case inspect.BytesType():
            return "bin"
        case inspect.Metadata(type=inner):
            return type_text(inner)
        case _:
            return type(type_).__name__.removesuffix("Type").lower()


def default_text(field: inspect.Field) -> str:
    """A field's default, or nothing where it must be given."""
    if field.required:
        return ""
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    match value:
        case None:
            return "nil"
        case bool():
            return code(str(value).lower())
        case enum.Enum():
            return code(value.value)
        case bytes() | str() | tuple() | list() | dict() if not value:
            return "empty"
        case msgspec.Struct():
            return "its own defaults"
        case _:
            return code(value)


def lifecycle_page() -> str:
    """lifecycle.md"""
    ids = {state: state.name for state in TRANSITIONS}
    drawing = ["```mermaid", "stateDiagram-v2"]
    drawing += [f'    state "{state}" as {ids[state]}' for state in TRANSITIONS]
    reached = {later for later_ones in TRANSITIONS.values() for later in later_ones}
    drawing += [f"    [*] --> {ids[state]}" for state in TRANSITIONS if state not in reached]
    for state, later_ones in TRANSITIONS.items():
        drawing += [f"    {ids[state]} --> {ids[later]}" for later in TRANSITIONS if later in later_ones]
        drawing += [f"    {ids[state]} --> [*]"] if not later_ones else []
    drawing.append("```")
    everything = ~KeyOperationPermission.NONE
    rows = [
        (
            code(state),
            "nothing"
            if not allowed
            else "everything that the permissions allow"
            if allowed == everything
            else ", ".join(permission_names(allowed)),
            codes(later for later in TRANSITIONS if later in TRANSITIONS[state]) or "none",
        )
        for state, allowed in USABLE.items()
    ]
    return "\n\n".join(
        [
            "# Life of a key version",
            prose("""
                A slot has at most one active version. `creating`, `abandoned` and `destroying` mark work that a crash
                may have interrupted; they serve nobody, and the sweep completes them: the record of an abandoned
                version is removed together with whatever the provider still has of it, a destruction that was begun
                is ended.
            """),
            table(["state", "may serve", "may become"], rows),
            "\n".join(drawing),
        ]
    )


def providers_page() -> str:
    """providers.md"""
    pinned = backends()
    names = list(pinned)
    heads = [HEADS.get(name, name) for name in names]
    stands_for = "; ".join(f"*{HEADS[name]}*, {what}" for name, what in STANDS_FOR.items() if name in pinned)
    filled = sum(len(operations) for one in pinned.values() for operations in one.algorithms.values())
    parts = [
        "# What providers can do",
        prose(f"""
            By provider and algorithm, the operations: {filled} of them, each of which the conformance suite
            (`./dev test conformance`) performs against the real thing and checks against another implementation, or,
            where a key cannot leave its token, against the inverse operation. The suite fails where a provider claims
            less or more than stands here, and where an operation that stands here is not run. The columns:
            {stands_for}.
        """),
        prose("""
            A provider probes its token when it starts and offers what it finds, so another HSM or TPM may have more or
            less; `hsmbridge providers` shows it. What each costs: [performance](../performance.md).
        """),
        "## Algorithms",
        table(
            ["algorithm", *heads],
            [
                (code(row.name), *(", ".join(ordered(pinned[name].algorithms.get(row.name, ()))) for name in names))
                for row in ALGORITHMS.values()
                if any(row.name in one.algorithms for one in pinned.values())
            ],
        ),
        "## Key types",
        "*Generated*, or *imported* in the clear.",
        table(
            ["key type", *heads],
            [
                (code(row.name), *(made(row, pinned[name]) for name in names))
                for row in KEY_TYPES.values()
                if any(made(row, one) for one in pinned.values())
            ],
        ),
    ]
    return "\n\n".join(parts)


def ordered(operations: Iterable[str]) -> Sequence[str]:
    """Operations in the order of their table."""
    wanted = set(operations)
    return [operation for operation in KeyOperation if operation in wanted]


def made(row: KeyType, pinned: Backend) -> str:
    """How a key of a type gets into a provider."""
    ways = (("generated", pinned.key_types), ("imported", pinned.imports))
    return ", ".join(way for way, names in ways if row.name in names)


def configuration_page() -> str:
    """configuration.md"""
    sections = []
    for field in msgspec.structs.fields(Config):
        if field.type is FrontEnds:
            for door in msgspec.structs.fields(FrontEnds):
                section = cast(type[msgspec.Struct], get_args(door.type)[0])
                sections += [f"## `[{field.name}.{door.name}]`", sentence(getdoc(section)), settings_table(section)]
            continue
        named = isinstance(inspect.type_info(field.type), inspect.DictType)
        name = f"{field.name}.NAME" if named else field.name
        section = cast(type[msgspec.Struct], get_args(field.type)[1] if named else field.type)
        sections += [f"## `[{name}]`", sentence(getdoc(section)), settings_table(section)]
    return "\n\n".join(
        [
            "# Configuration",
            prose("""
                One file, TOML or JSON: the one that `--config` names, else `$HSMBRIDGE_CONFIG`, else
                `/etc/hsmbridge/hsmbridge.toml` for root and `$XDG_CONFIG_HOME/hsmbridge/hsmbridge.toml`
                (`~/.config`) for others. A key that is not in these tables is refused, with the nearest one that is.
                Times are in seconds. A path that is not absolute starts at the folder of the file. No setting holds a
                secret: they name where one is. `hsmbridge config check` reads the file and starts nothing.
            """),
            *sections,
        ]
    )


def settings_table(section: type[msgspec.Struct]) -> str:
    """The keys of a section."""
    read_as = {field.name: field.type for field in msgspec.structs.fields(section)}
    return table(
        ["key", "takes", "default", "meaning"],
        [
            (
                code(field.name),
                expected(read_as[field.name]),
                "must be given" if field.required else setting_default(field),
                description(field.type),
            )
            for field in struct_type(section).fields
        ],
    )


def setting_default(field: inspect.Field) -> str:
    """A setting's default, written as in the file."""
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    match value:
        case None:
            return "unset"
        case tuple() | dict() if not value:
            return "empty"
        case FileMode() | enum.Enum() | str():
            return code(f'"{value}"')
        case ByteSize() if str(value) != str(int(value)):
            return code(f'"{value}"')
        case bool():
            return code(str(value).lower())
        case float() if value.is_integer():
            return code(int(value))
        case _:
            return code(value)


def description(type_: inspect.Type) -> str:
    """What the annotation of a type says of it."""
    return str((type_.extra_json_schema or {}).get("description", "")) if isinstance(type_, inspect.Metadata) else ""


PAGES: Mapping[str, tuple[str, Callable[[], str]]] = {
    "algorithms.md": ("hsmbridge/core/algorithms.py", algorithms_page),
    "key-types.md": ("hsmbridge/core/key_types.py", key_types_page),
    "statuses.md": ("hsmbridge/core/errors.py", statuses_page),
    "permissions.md": ("hsmbridge/core/permissions.py", permissions_page),
    "operations.md": ("hsmbridge/core/operations.py", operations_page),
    "messages.md": ("hsmbridge/core/messages.py", messages_page),
    "lifecycle.md": ("hsmbridge/core/lifecycle.py", lifecycle_page),
    "providers.md": ("tests/conformance/pinned_rows.toml", providers_page),
    "configuration.md": ("hsmbridge/config/sections.py", configuration_page),
}


def rendered() -> Mapping[Path, str]:
    """Every page by its path."""
    return {
        REFERENCE
        / name: f"<!-- Generated from {source} by docs/generate.py: change that, then ./dev docs. -->\n\n{page()}\n"
        for name, (source, page) in PAGES.items()
    }


def stale(pages: Mapping[Path, str]) -> Sequence[Path]:
    """Pages that are missing, out of date, or belong to none of ours."""
    changed = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    return changed + [path for path in sorted(REFERENCE.glob("*")) if path not in pages]


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="Write docs/reference/ from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; name the pages that are out of date")
    pages = rendered()
    if parser.parse_args().check:
        found = [str(path.relative_to(ROOT)) for path in stale(pages)]
        if found:
            print(f"docs: out of date: {', '.join(found)}; run ./dev docs", file=sys.stderr)
        return 1 if found else 0
    REFERENCE.mkdir(exist_ok=True)
    for path in stale(pages):
        if path in pages:
            path.write_text(pages[path])
            print(f"docs: wrote {path.relative_to(ROOT)}", file=sys.stderr)
        else:
            path.unlink()
            print(f"docs: removed {path.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
