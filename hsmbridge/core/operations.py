"""The table of operations: everything a client can ask for.

Decoding, the permission that is needed and the name in the audit are read from here. Opcodes are part of the
wire format and never change or get a second meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from hsmbridge.core import messages as m
from hsmbridge.core import token_messages as t
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
        opcode: 16 bits; 0 where no frame can ask for it, only a front end of the same process.
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
    Operation(
        opcode=0x0028,
        name="slot-adopt",
        request=m.SlotAdoptRequest,
        response=m.SlotAdoptReply,
        into_slot="name",
    ),
    Operation(
        opcode=0x0029,
        name="slot-export",
        request=m.SlotExportRequest,
        response=m.SlotExportReply,
        requires=_uses(P.EXPORT),
        idempotent=True,
    ),
    Operation(
        opcode=0x002A,
        name="slot-attest",
        request=m.SlotAttestRequest,
        response=m.SlotAttestReply,
        requires=_uses(P.NONE),
        idempotent=True,
    ),
    Operation(
        opcode=0x002B,
        name="slot-attributes",
        request=m.SlotAttributesRequest,
        response=m.SlotInfo,
        administers="name",
        idempotent=True,
    ),
    Operation(opcode=0x0080, name="cert-import", request=m.CertImportRequest, response=m.CertInfo),
    Operation(opcode=0x0081, name="cert-load", request=m.CertLoadRequest, response=m.CertLoadReply),
    Operation(opcode=0x0082, name="cert-show", request=m.CertShowRequest, response=m.CertInfo, idempotent=True),
    Operation(opcode=0x0083, name="cert-list", request=m.CertListRequest, response=m.CertListReply, idempotent=True),
    Operation(opcode=0x0084, name="cert-bind", request=m.CertBindRequest, response=m.CertInfo, administers="name"),
    Operation(opcode=0x0085, name="cert-remove", request=m.CertRemoveRequest, response=m.Empty, administers="name"),
    Operation(
        opcode=0x0086,
        name="cert-verify",
        request=m.CertVerifyRequest,
        response=m.CertVerifyReply,
        idempotent=True,
    ),
    Operation(
        opcode=0x0087,
        name="cert-access",
        request=m.CertAccessRequest,
        response=m.CertAccessReply,
        administers="name",
    ),
    Operation(opcode=0x0088, name="trust-create", request=m.TrustCreateRequest, response=m.TrustInfo),
    Operation(opcode=0x0089, name="trust-add", request=m.TrustAddRequest, response=m.TrustInfo, administers="name"),
    Operation(
        opcode=0x008A,
        name="trust-remove",
        request=m.TrustRemoveRequest,
        response=m.TrustInfo,
        administers="name",
    ),
    Operation(opcode=0x008B, name="trust-show", request=m.TrustShowRequest, response=m.TrustInfo, idempotent=True),
    Operation(
        opcode=0x008C,
        name="trust-list",
        request=m.TrustListRequest,
        response=m.TrustListReply,
        idempotent=True,
    ),
    Operation(opcode=0x008D, name="crl-import", request=m.CrlImportRequest, response=m.CrlInfo),
    Operation(opcode=0x008E, name="crl-show", request=m.CrlShowRequest, response=m.CrlInfo, idempotent=True),
    Operation(opcode=0x008F, name="crl-list", request=m.CrlListRequest, response=m.CrlListReply, idempotent=True),
    Operation(
        opcode=0x0050,
        name="context-encrypt",
        request=m.ContextEncryptRequest,
        response=m.ContextReply,
        requires=_uses(P.ENCRYPT),
    ),
    Operation(
        opcode=0x0051,
        name="context-decrypt",
        request=m.ContextDecryptRequest,
        response=m.ContextReply,
        requires=_uses(P.DECRYPT),
    ),
    Operation(
        opcode=0x0052,
        name="context-sign",
        request=m.ContextSignRequest,
        response=m.ContextReply,
        requires=_uses(P.SIGN),
    ),
    Operation(
        opcode=0x0053,
        name="context-verify",
        request=m.ContextVerifyRequest,
        response=m.ContextReply,
        requires=_uses(P.VERIFY),
    ),
    Operation(opcode=0x0054, name="context-digest", request=m.ContextDigestRequest, response=m.ContextReply),
    Operation(opcode=0x0055, name="context-init", request=m.ContextInitRequest, response=m.ContextReply),
    Operation(opcode=0x0056, name="context-update", request=m.ContextUpdateRequest, response=m.ContextDataReply),
    Operation(opcode=0x0057, name="context-finalize", request=m.ContextFinalizeRequest, response=m.ContextFinalReply),
    Operation(opcode=0x0058, name="context-read", request=m.ContextReadRequest, response=m.ContextDataReply),
    Operation(opcode=0x0059, name="context-reset", request=m.ContextResetRequest, response=m.ContextReply),
    Operation(opcode=0x005A, name="context-close", request=m.ContextCloseRequest, response=m.Empty),
    Operation(opcode=0x0090, name="share-memory", request=m.ShareMemoryRequest, response=m.ShareMemoryReply),
    Operation(
        opcode=0x0091, name="shared-digest", request=m.SharedDigestRequest, response=m.DigestReply, idempotent=True
    ),
    Operation(
        opcode=0x0092,
        name="shared-mac",
        request=m.SharedMacRequest,
        response=m.MacReply,
        requires=_uses(P.SIGN),
        idempotent=True,
    ),
    Operation(
        opcode=0x0093,
        name="shared-encrypt",
        request=m.SharedEncryptRequest,
        response=m.SharedEncryptReply,
        requires=_uses(P.ENCRYPT),
    ),
    Operation(
        opcode=0x0094,
        name="shared-decrypt",
        request=m.SharedDecryptRequest,
        response=m.SharedDecryptReply,
        requires=_uses(P.DECRYPT),
        idempotent=True,
    ),
    Operation(
        opcode=0x0095,
        name="shared-encrypt-many",
        request=m.SharedEncryptManyRequest,
        response=m.SharedEncryptManyReply,
        requires=_uses(P.ENCRYPT),
    ),
    Operation(opcode=0x00A0, name="pin-list", request=m.PinListRequest, response=m.PinListReply, idempotent=True),
    Operation(opcode=0x00A1, name="pin-reset", request=m.PinResetRequest, response=m.PinResetReply, idempotent=True),
    Operation(opcode=0, name="token-show", request=t.TokenShowRequest, response=m.PinInfo, idempotent=True),
    Operation(opcode=0, name="token-initialize", request=t.TokenInitializeRequest, response=m.Empty),
    Operation(opcode=0, name="token-login", request=t.TokenLoginRequest, response=m.Empty),
    Operation(opcode=0, name="token-pin", request=t.TokenPinRequest, response=m.Empty),
)

OPERATIONS: Mapping[int, Operation] = MappingProxyType({row.opcode: row for row in _ROWS if row.opcode})
"""Every operation that a frame can ask for, by opcode."""

OPERATION_FOR: Mapping[type[msgspec.Struct], Operation] = MappingProxyType({row.request: row for row in _ROWS})
"""Every operation by its request struct."""
