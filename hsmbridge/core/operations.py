"""The table of operations: everything a client can ask for.

Decoding, the permission that is needed and the name in the audit are read from here. Opcodes are part of the
wire format and never change or get a second meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from hsmbridge.core import messages as m
from hsmbridge.core.permissions import KeyOperationPermission as P

HELLO_OPCODE = 0x0001


@dataclass(frozen=True, slots=True)
class Requirement:
    """The key named by a field of the request must have a permission."""

    field: str
    permission: P


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row.

    Attributes:
        opcode: 16 bits.
        name: for the audit, the CLI and metrics.
        request, response: the structs of `hsmbridge.core.messages`.
        requires: permissions that keys named in the request must have.
        administers: the field naming the slot that the caller must administer, or "".
        into_slot: the field naming a slot that the result is written to, or "".
        idempotent: may be sent again after a lost connection.
        streamable: has a context form.
        batchable: many requests of it may travel in one frame.
    """

    opcode: int
    name: str
    request: type[msgspec.Struct]
    response: type[msgspec.Struct]
    requires: tuple[Requirement, ...] = ()
    administers: str = ""
    into_slot: str = ""
    idempotent: bool = False
    streamable: bool = False
    batchable: bool = False


def _uses(permission: P, field: str = "key") -> tuple[Requirement, ...]:
    return (Requirement(field, permission),)


_ROWS: tuple[Operation, ...] = (
    Operation(opcode=HELLO_OPCODE, name="hello", request=m.HelloRequest, response=m.HelloReply, idempotent=True),
    Operation(opcode=0x0002, name="ping", request=m.PingRequest, response=m.PingReply, idempotent=True),
    Operation(opcode=0x0003, name="status", request=m.StatusRequest, response=m.StatusReply, idempotent=True),
    Operation(
        opcode=0x0004,
        name="providers",
        request=m.ProvidersRequest,
        response=m.ProvidersReply,
        idempotent=True,
    ),
    Operation(opcode=0x0005, name="doctor", request=m.DoctorRequest, response=m.DoctorReply, idempotent=True),
    Operation(opcode=0x0010, name="resolve", request=m.ResolveRequest, response=m.ResolveReply, idempotent=True),
    Operation(opcode=0x0011, name="release", request=m.ReleaseRequest, response=m.Empty),
    Operation(opcode=0x0020, name="slot-create", request=m.SlotCreateRequest, response=m.SlotInfo),
    Operation(opcode=0x0021, name="slot-list", request=m.SlotListRequest, response=m.SlotListReply, idempotent=True),
    Operation(opcode=0x0022, name="slot-show", request=m.SlotShowRequest, response=m.SlotInfo, idempotent=True),
    Operation(opcode=0x0023, name="slot-rotate", request=m.SlotRotateRequest, response=m.SlotInfo),
    Operation(
        opcode=0x0024,
        name="slot-revoke",
        request=m.SlotRevokeRequest,
        response=m.SlotInfo,
        administers="name",
    ),
    Operation(opcode=0x0025, name="slot-destroy", request=m.SlotDestroyRequest, response=m.Empty, administers="name"),
    Operation(opcode=0x0026, name="slot-grant", request=m.SlotGrantRequest, response=m.SlotInfo, administers="name"),
    Operation(
        opcode=0x0027,
        name="slot-ungrant",
        request=m.SlotUngrantRequest,
        response=m.SlotInfo,
        administers="name",
    ),
    Operation(
        opcode=0x0040,
        name="sign",
        request=m.SignRequest,
        response=m.SignReply,
        requires=_uses(P.SIGN),
        idempotent=True,
        streamable=True,
        batchable=True,
    ),
    Operation(
        opcode=0x0041,
        name="verify",
        request=m.VerifyRequest,
        response=m.VerifyReply,
        requires=_uses(P.VERIFY),
        idempotent=True,
        streamable=True,
        batchable=True,
    ),
    Operation(
        opcode=0x0042,
        name="mac",
        request=m.MacRequest,
        response=m.MacReply,
        requires=_uses(P.SIGN),
        idempotent=True,
        streamable=True,
        batchable=True,
    ),
    Operation(
        opcode=0x0043,
        name="mac-verify",
        request=m.MacVerifyRequest,
        response=m.VerifyReply,
        requires=_uses(P.VERIFY),
        idempotent=True,
        streamable=True,
        batchable=True,
    ),
    Operation(
        opcode=0x0044,
        name="encrypt",
        request=m.EncryptRequest,
        response=m.EncryptReply,
        requires=_uses(P.ENCRYPT),
        streamable=True,
        batchable=True,
    ),
    Operation(
        opcode=0x0045,
        name="decrypt",
        request=m.DecryptRequest,
        response=m.DecryptReply,
        requires=_uses(P.DECRYPT),
        idempotent=True,
        streamable=True,
        batchable=True,
    ),
    Operation(
        opcode=0x0046,
        name="encapsulate",
        request=m.EncapsulateRequest,
        response=m.EncapsulateReply,
        requires=_uses(P.ENCAPSULATE),
        into_slot="slot",
        batchable=True,
    ),
    Operation(
        opcode=0x0047,
        name="decapsulate",
        request=m.DecapsulateRequest,
        response=m.DecapsulateReply,
        requires=_uses(P.DECAPSULATE),
        into_slot="slot",
        batchable=True,
    ),
    Operation(
        opcode=0x0048,
        name="digest",
        request=m.DigestRequest,
        response=m.DigestReply,
        idempotent=True,
        streamable=True,
        batchable=True,
    ),
    Operation(
        opcode=0x0049,
        name="random",
        request=m.RandomRequest,
        response=m.RandomReply,
        idempotent=True,
        batchable=True,
    ),
    Operation(
        opcode=0x004A,
        name="sign-many",
        request=m.SignManyRequest,
        response=m.SignManyReply,
        requires=_uses(P.SIGN),
        idempotent=True,
    ),
    Operation(opcode=0x0060, name="generate", request=m.GenerateRequest, response=m.KeyReply, into_slot="slot"),
    Operation(
        opcode=0x0061,
        name="derive",
        request=m.DeriveRequest,
        response=m.KeyReply,
        requires=_uses(P.DERIVE),
        into_slot="slot",
    ),
    Operation(
        opcode=0x0062,
        name="agree",
        request=m.AgreeRequest,
        response=m.KeyReply,
        requires=_uses(P.DERIVE),
        into_slot="slot",
    ),
    Operation(opcode=0x0063, name="import", request=m.ImportRequest, response=m.KeyReply, into_slot="slot"),
    Operation(
        opcode=0x0064,
        name="wrap",
        request=m.WrapRequest,
        response=m.WrapReply,
        requires=(Requirement("key", P.WRAP), Requirement("wrapped", P.EXPORT)),
    ),
    Operation(
        opcode=0x0065,
        name="unwrap",
        request=m.UnwrapRequest,
        response=m.KeyReply,
        requires=_uses(P.UNWRAP),
        into_slot="slot",
    ),
    Operation(
        opcode=0x0066,
        name="persist",
        request=m.PersistRequest,
        response=m.KeyReply,
        requires=_uses(P.NONE),
        into_slot="slot",
    ),
)

OPERATIONS: Mapping[int, Operation] = MappingProxyType({row.opcode: row for row in _ROWS})
"""Every operation by opcode."""

OPERATION_FOR: Mapping[type[msgspec.Struct], Operation] = MappingProxyType({row.request: row for row in _ROWS})
"""Every operation by its request struct."""
