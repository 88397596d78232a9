"""What applications keep with a slot: attributes by the number that PKCS#11 has for them, such as CKA_ID.

They describe a key to programs and decide nothing: no permission, no access and no key follows from them. Pure
decisions, as in `hsmbridge.keys.versions`.
"""

from collections.abc import Mapping
from dataclasses import replace

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.storage.records import SlotRecord

ATTRIBUTES_MAX = 8
"""Attributes of one slot."""
VALUES_MAX = 4096
"""Bytes of all their values."""
_NUMBER_MAX = 0xFFFF_FFFF

Attributes = tuple[tuple[int, bytes], ...]


def check_attributes(attributes: Mapping[int, bytes]) -> Attributes:
    """The attributes of a slot, by number; empty values are none. Raises RequestError (INVALID_ARGUMENT)."""
    found = tuple(sorted((number, value) for number, value in attributes.items() if value))
    if any(not 0 <= number <= _NUMBER_MAX for number in attributes):
        raise RequestError(Status.INVALID_ARGUMENT, f"The number of an attribute is between 0 and {_NUMBER_MAX:#x}.")
    if len(found) > ATTRIBUTES_MAX or sum(len(value) for _, value in found) > VALUES_MAX:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"A slot keeps {ATTRIBUTES_MAX} attributes at most, of {VALUES_MAX} bytes together; give fewer.",
        )
    return found


def with_attributes(record: SlotRecord, changes: Mapping[int, bytes]) -> SlotRecord:
    """The record with these attributes set and the others as they were; b"" takes one away.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    attributes = check_attributes(dict(record.attributes) | dict(changes))
    if attributes == record.attributes:
        return record
    return replace(record, attributes=attributes, generation=record.generation + 1)
