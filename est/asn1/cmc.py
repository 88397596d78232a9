"""The structures of CMC (RFC 5272) that EST uses: PKIData, PKIResponse and their controls, read and written.

    PKIData ::= SEQUENCE { controlSequence, reqSequence, cmsSequence, otherMsgSequence }
    PKIResponse ::= SEQUENCE { controlSequence, cmsSequence, otherMsgSequence }

Signing around them is `est.cms.signed`; what the controls mean is for client and server.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import ClassVar

from asn1crypto import core

from est import oids, refusals
from est.asn1.der import Choice, Sequence, SequenceOf, SetOf, read


class _Values(SetOf):
    _child_spec = core.Any


class _TaggedAttribute(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("body_part_id", core.Integer),
        ("attr_type", core.ObjectIdentifier),
        ("attr_values", _Values),
    ]


class _TaggedAttributes(SequenceOf):
    _child_spec = _TaggedAttribute


class _TaggedCertificationRequest(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("body_part_id", core.Integer),
        ("certification_request", core.Any),
    ]


class TaggedRequest(Choice):
    """A request in a PKIData."""

    # orm [2] is of no use to EST; crm [1] is a CertReqMsg of RFC 4211 and is passed on as it came.
    _alternatives: ClassVar[list[tuple[object, ...]]] = [
        ("tcr", _TaggedCertificationRequest, {"implicit": 0}),
        ("crm", core.Sequence, {"implicit": 1}),
    ]


class _TaggedRequests(SequenceOf):
    _child_spec = TaggedRequest


class _Anything(SequenceOf):
    _child_spec = core.Any


class _PkiData(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("controls", _TaggedAttributes),
        ("requests", _TaggedRequests),
        ("cms", _Anything),
        ("others", _Anything),
    ]


class _PkiResponse(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("controls", _TaggedAttributes),
        ("cms", _Anything),
        ("others", _Anything),
    ]


class _BodyPartReferences(SequenceOf):
    # A BodyPartReference is an id or a path of ids; est makes and looks at ids only.
    _child_spec = core.Any


class _PendInfo(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [("token", core.OctetString), ("time", core.GeneralizedTime)]


class _OtherInfo(Choice):
    _alternatives: ClassVar[list[tuple[object, ...]]] = [
        ("fail", core.Integer),
        ("pend", _PendInfo),
        ("extended", core.Sequence, {"implicit": 1}),
    ]


class _StatusInfo(Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("status", core.Integer),
        ("body_list", _BodyPartReferences),
        ("text", core.UTF8String, {"optional": True}),
        ("other", _OtherInfo, {"optional": True}),
    ]


class CmcStatus(IntEnum):
    """CMCStatus (RFC 5272 section 6.1.3)."""

    SUCCESS = 0
    FAILED = 2
    PENDING = 3
    NO_SUPPORT = 4
    CONFIRM_REQUIRED = 5
    POP_REQUIRED = 6
    PARTIAL = 7


class CmcFailure(IntEnum):
    """CMCFailInfo (RFC 5272 section 6.1.4)."""

    BAD_ALG = 0
    BAD_MESSAGE_CHECK = 1
    BAD_REQUEST = 2
    BAD_TIME = 3
    BAD_CERT_ID = 4
    UNSUPPORTED_EXT = 5
    MUST_ARCHIVE_KEYS = 6
    BAD_IDENTITY = 7
    POP_REQUIRED = 8
    POP_FAILED = 9
    NO_KEY_REUSE = 10
    INTERNAL_CA_ERROR = 11
    TRY_LATER = 12
    AUTH_DATA_FAIL = 13


@dataclass(frozen=True, slots=True)
class Control:
    """A control: its body part id, its type, its values as DER."""

    part: int
    type: str
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CmcRequest:
    """A PKIData: controls, and PKCS#10 requests by body part id."""

    controls: tuple[Control, ...]
    requests: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class StatusInfo:
    """CMCStatusInfo or its second version; `failure` is a number of CMCFailInfo or None.

    `pending_token` names a request that waits, and `pending_until` is when to ask for it again (PendInfo).
    """

    status: int
    parts: tuple[int, ...] = ()
    text: str = ""
    failure: int | None = None
    pending_token: bytes = b""
    pending_until: datetime | None = None

    def __str__(self) -> str:
        named = CmcStatus(self.status).name.lower() if self.status in set(CmcStatus) else str(self.status)
        if self.failure is not None:
            failure = CmcFailure(self.failure).name.lower() if self.failure in set(CmcFailure) else str(self.failure)
            named = f"{named} ({failure})"
        return f"{named}: {self.text}" if self.text else named


def dump_request(request: CmcRequest) -> bytes:
    """Write a PKIData."""
    requests = _TaggedRequests([])
    for part, der in request.requests:
        requests.append(_tagged(part, der))
    data = {"controls": _controls(request.controls), "requests": requests, "cms": [], "others": []}
    return bytes(_PkiData(data).dump())


def _tagged(part: int, der: bytes) -> TaggedRequest:
    tagged = _TaggedCertificationRequest({"body_part_id": part, "certification_request": core.Any.load(der)})
    return TaggedRequest("tcr", tagged)


def dump_tagged_request(part: int, der: bytes) -> bytes:
    """A PKCS#10 request as it stands in a PKIData, a TaggedRequest."""
    return bytes(_tagged(part, der).dump())


def dump_response(controls: Iterable[Control]) -> bytes:
    """Write a PKIResponse."""
    return bytes(_PkiResponse({"controls": _controls(controls), "cms": [], "others": []}).dump())


def _controls(controls: Iterable[Control]) -> _TaggedAttributes:
    written = _TaggedAttributes([])
    for one in controls:
        values = [core.Any.load(value) for value in one.values]
        written.append(
            _TaggedAttribute({"body_part_id": one.part, "attr_type": one.type, "attr_values": _Values(values)})
        )
    return written


def parse_request(der: bytes) -> CmcRequest:
    """Read a PKIData; requests that are not PKCS#10 are refused.

    Raises:
        WireError: it cannot be read.
        RequestError: it holds a request in another form.
    """

    def take() -> CmcRequest:
        data = _PkiData.load(der, strict=True)
        requests = []
        for one in data["requests"]:
            if one.name != "tcr":
                raise refusals.unsupported("A CMC request in a form other than PKCS#10 is not taken.")
            requests.append((int(one.chosen["body_part_id"].native), bytes(one.chosen["certification_request"].dump())))
        return CmcRequest(_read_controls(data["controls"]), tuple(requests))

    return read("CMC request", der, take)


def parse_response(der: bytes) -> tuple[Control, ...]:
    """The controls of a PKIResponse.

    Raises:
        WireError: it cannot be read.
    """
    return read("CMC response", der, lambda: _read_controls(_PkiResponse.load(der, strict=True)["controls"]))


def _read_controls(controls: _TaggedAttributes) -> tuple[Control, ...]:
    return tuple(
        Control(
            int(one["body_part_id"].native),
            str(one["attr_type"].dotted),
            tuple(bytes(value.dump()) for value in one["attr_values"]),
        )
        for one in controls
    )


def dump_status(info: StatusInfo) -> bytes:
    """Write a CMCStatusInfoV2 (whose BodyPartReference is a plain id here)."""
    written = _StatusInfo({"status": info.status, "body_list": [core.Any(core.Integer(part)) for part in info.parts]})
    if info.text:
        written["text"] = info.text
    if info.failure is not None:
        written["other"] = _OtherInfo("fail", info.failure)
    elif info.pending_token:
        when = core.GeneralizedTime((info.pending_until or datetime.now(UTC)).replace(microsecond=0))
        written["other"] = _OtherInfo("pend", _PendInfo({"token": info.pending_token, "time": when}))
    return bytes(written.dump())


def parse_status(der: bytes) -> StatusInfo:
    """Read a CMCStatusInfo or CMCStatusInfoV2.

    Raises:
        WireError: it cannot be read.
    """

    def take() -> StatusInfo:
        info = _StatusInfo.load(der, strict=True)
        other = info["other"]
        kind = other.name if isinstance(other, _OtherInfo) else ""
        return StatusInfo(
            status=int(info["status"].native),
            parts=tuple(int(one.native) for one in info["body_list"] if isinstance(one.parse(), core.Integer)),
            text=str(info["text"].native or ""),
            failure=int(other.chosen.native) if kind == "fail" else None,
            pending_token=bytes(other.chosen["token"].native) if kind == "pend" else b"",
            pending_until=_time(other.chosen["time"].native) if kind == "pend" else None,
        )

    return read("CMC status", der, take)


def _time(value: object) -> datetime | None:
    return value if isinstance(value, datetime) and value.tzinfo is not None else None


def find(controls: Iterable[Control], type_: str) -> bytes | None:
    """The first value of the control of that type, or None."""
    return next((one.values[0] for one in controls if one.type == type_ and one.values), None)


def statuses(controls: Iterable[Control]) -> tuple[StatusInfo, ...]:
    """Every status among the controls."""
    wanted = (oids.CMC_STATUS_INFO, oids.CMC_STATUS_INFO_V2)
    return tuple(parse_status(one.values[0]) for one in controls if one.type in wanted and one.values)
