"""How records become rows and rows become records.

Pure conversions; a row that is no record (a state or a flag that does not exist) raises ValueError, which only
happens where somebody edited it.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from hsmbridge.core.identifiers import KEY_ID_LENGTH, KeyId, QualifiedName
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import KeyOperationPermission
from hsmbridge.core.policy import NoncePolicy, Protection, Role
from hsmbridge.storage.authentication import Row, Value
from hsmbridge.storage.records import (
    SLOT_ID_LENGTH,
    AccessEntry,
    Origin,
    SlotId,
    SlotRecord,
    SlotState,
    VersionRecord,
)

_MICROSECONDS = 1_000_000
_ATTRIBUTES = msgspec.msgpack.Decoder(tuple[tuple[int, bytes], ...])


def plain_row(row: sa.RowMapping) -> dict[str, Value]:
    """A row as it came from the database, with plain strings for column names."""
    return {str(name): value for name, value in row.items()}


def slot_row(record: SlotRecord) -> dict[str, Value]:
    """The row of a slot, without its MAC."""
    return {
        "id": record.id,
        "namespace": record.name.namespace,
        "name": record.name.name,
        "state": record.state.value,
        "key_type": record.key_type,
        "providers": ",".join(record.providers),
        "permissions": int(record.permissions),
        "algorithms": ",".join(record.algorithms),
        "nonce_policy": record.nonce_policy.value,
        "fallback": int(record.fallback),
        "sign_and_decrypt": int(record.sign_and_decrypt),
        "derive_to_software": int(record.derive_to_software),
        "imported_wrapping_key": int(record.imported_wrapping_key),
        "creator": record.creator,
        "generation": record.generation,
        "revision": record.revision,
        "created": microseconds(record.created),
        "attributes": msgspec.msgpack.encode(record.attributes) if record.attributes else None,
    }


def version_row(slot_id: SlotId, version: VersionRecord) -> dict[str, Value]:
    """The row of a version."""
    return {
        "key_id": version.key_id,
        "slot_id": slot_id,
        "number": version.number,
        "state": version.state.value,
        "provider": version.provider,
        "token": version.token,
        "fell_back_from": version.fell_back_from,
        "origin": version.origin.value,
        "permissions": int(version.permissions),
        "owner": version.owner,
        "reference": version.reference,
        "public_key": version.public_key,
        "protection": None if version.protection is None else version.protection.value,
        "created": microseconds(version.created),
        "changed": microseconds(version.changed),
    }


def access_row(slot_id: SlotId, entry: AccessEntry) -> dict[str, Value]:
    """The row of an access entry."""
    return {
        "slot_id": slot_id,
        "principal": entry.principal,
        "role": entry.role.value,
        "permissions": int(entry.permissions),
    }


def record_from(slot: Row, versions: Sequence[Row], access: Sequence[Row]) -> SlotRecord:
    """The record of a slot. Raises ValueError where the rows are none."""
    return SlotRecord(
        id=SlotId(exact_bytes(slot["id"], SLOT_ID_LENGTH)),
        name=QualifiedName(of_kind(str, slot["namespace"]), of_kind(str, slot["name"])),
        state=SlotState(of_kind(str, slot["state"])),
        key_type=of_kind(str, slot["key_type"]),
        providers=_names(slot["providers"]),
        permissions=_permissions(slot["permissions"]),
        algorithms=_names(slot["algorithms"]),
        nonce_policy=NoncePolicy(of_kind(str, slot["nonce_policy"])),
        fallback=_flag(slot["fallback"]),
        sign_and_decrypt=_flag(slot["sign_and_decrypt"]),
        derive_to_software=_flag(slot["derive_to_software"]),
        imported_wrapping_key=_flag(slot["imported_wrapping_key"]),
        creator=of_kind(str, slot["creator"]),
        generation=of_kind(int, slot["generation"]),
        revision=of_kind(int, slot["revision"]),
        created=seconds(slot["created"]),
        versions=tuple(sorted(map(_version, versions), key=lambda version: version.number)),
        access=tuple(sorted(map(_entry, access), key=lambda entry: entry.principal)),
        attributes=_attributes(slot["attributes"]),
    )


def _version(row: Row) -> VersionRecord:
    protection = row["protection"]
    return VersionRecord(
        key_id=KeyId(exact_bytes(row["key_id"], KEY_ID_LENGTH)),
        number=of_kind(int, row["number"]),
        state=KeyVersionState(of_kind(str, row["state"])),
        provider=of_kind(str, row["provider"]),
        token=of_kind(str, row["token"]),
        fell_back_from=of_kind(str, row["fell_back_from"]),
        origin=Origin(of_kind(str, row["origin"])),
        permissions=_permissions(row["permissions"]),
        owner=of_kind(str, row["owner"]),
        reference=of_kind(bytes, row["reference"]),
        public_key=of_kind(bytes, row["public_key"]),
        protection=None if protection is None else Protection(of_kind(str, protection)),
        created=seconds(row["created"]),
        changed=seconds(row["changed"]),
    )


def _entry(row: Row) -> AccessEntry:
    return AccessEntry(
        of_kind(str, row["principal"]), Role(of_kind(str, row["role"])), _permissions(row["permissions"])
    )


_T = TypeVar("_T", str, bytes, int)


def of_kind(kind: type[_T], value: Value) -> _T:
    """A column of the type that it must have. Raises ValueError."""
    if not isinstance(value, kind):
        raise ValueError(f"a {kind.__name__} was expected")
    return value


def exact_bytes(value: Value, length: int) -> bytes:
    """A column of so many bytes. Raises ValueError."""
    found = of_kind(bytes, value)
    if len(found) != length:
        raise ValueError(f"{length} bytes were expected")
    return found


def _names(value: Value) -> tuple[str, ...]:
    text = of_kind(str, value)
    return tuple(text.split(",")) if text else ()


def _attributes(value: Value) -> tuple[tuple[int, bytes], ...]:
    if value is None:
        return ()
    try:
        return _ATTRIBUTES.decode(of_kind(bytes, value))
    except msgspec.DecodeError:
        raise ValueError("attributes were expected") from None


def _permissions(value: Value) -> KeyOperationPermission:
    return KeyOperationPermission(of_kind(int, value))


def _flag(value: Value) -> bool:
    if value not in (0, 1):
        raise ValueError("0 or 1 was expected")
    return bool(value)


def microseconds(time: float) -> int:
    """Seconds since 1970 as a column holds them."""
    return round(time * _MICROSECONDS)


def seconds(value: Value) -> float:
    """A time of a column, in seconds since 1970. Raises ValueError."""
    return of_kind(int, value) / _MICROSECONDS
