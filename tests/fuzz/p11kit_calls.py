"""What the calls of a p11-kit connection mean: several after one another, over the real service and software keys.

An input is a row of calls: which, the length of its arguments, and those. The connection is there already: initialised,
with a session and a key pair. Nothing but a CKR_* may come of a call, and every reply must be one that can be written.
"""

import logging
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.frontends.asking import Answer
from hsmbridge.frontends.p11kit.calls import Calls
from hsmbridge.frontends.p11kit.directory import Directory
from hsmbridge.frontends.p11kit.refusals import Refused, ckr_of
from hsmbridge.frontends.p11kit.settings import LoginPolicy, P11KitSettings, TemplatePolicy, TokenView
from hsmbridge.frontends.p11kit.state import Application
from hsmbridge.wire.p11kit import HANDSHAKE, Result, decode_call, encode_failure, encode_result
from hsmbridge.wire.p11kit_attributes import Attribute, write_template
from hsmbridge.wire.p11kit_bodies import string
from hsmbridge.wire.p11kit_calls import CALLS, Call
from hsmbridge.wire.p11kit_mechanisms import Mechanism, write_mechanism
from tests.fuzz.target import Reader, Target
from tests.unit.service.served import Served
from tests.unit.storage.opened import ALICE

# What the service refuses is logged.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

SETTINGS = P11KitSettings(
    tokens=TokenView.PROVIDERS,
    templates=TemplatePolicy.ATTENUATE,
    login=LoginPolicy.NONE,
    pin=b"",
    version="1.2.3",
    max_data=4096,
    max_connections=1,
    max_connections_per_principal=1,
    max_in_flight=1,
    max_sessions=4,
    timeout=1.0,
)
OFFERED = 2
SLOTS = 40
"""After so many lasting keys the service begins anew."""


class _World:
    """A service and what its connections share."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hb", dir="/tmp")
        self._served = Served(Path(self._folder.name))
        self._made = 0
        clock = iter(range(1 << 62))
        self.directory = Directory(TokenView.PROVIDERS, self._served.store.changes.stamp, lambda: float(next(clock)))

    def ask(self, request: msgspec.Struct) -> msgspec.Struct:
        """What the service answers; it does not look for primes, which takes its time."""
        if isinstance(request, m.SlotCreateRequest | m.GenerateRequest) and b"RSA-" in msgspec.msgpack.encode(request):
            raise RequestError(Status.NOT_SUPPORTED)
        self._made += isinstance(request, m.SlotCreateRequest)
        try:
            return self._served.ask(request, msgspec.Struct)
        except HsmBridgeError as problem:
            if problem.status is Status.INTERNAL:
                raise AssertionError("the service failed") from problem
            raise

    def leave(self) -> None:
        """The connection ends."""
        self._served.end(self._served.sessions.pop(ALICE))
        self._served.calls.clear()
        self._served.audited.clear()

    @property
    def full(self) -> bool:
        """Whether there are so many keys that listing them takes the time."""
        return self._made > SLOTS

    def close(self) -> None:
        """End the service."""
        self._served.store.close()
        self._folder.cleanup()


_WORLD = [_World()]


def ask_all(data: bytes) -> list[bytes]:
    """The replies to a row of calls."""
    if _WORLD[0].full:
        _WORLD.pop().close()
        _WORLD.append(_World())
    world = _WORLD[0]
    application = Application(ALICE, OFFERED, world.directory, SETTINGS, lambda principal, slot: False)
    calls = Calls(application)
    try:
        return [_ask(world, calls, name, arguments) for name, arguments in (*_PRELUDE, *_row(data))]
    finally:
        world.leave()


def _row(data: bytes) -> Iterator[tuple[str, bytes]]:
    while len(data) >= 3:
        size = int.from_bytes(data[1:3])
        yield CALLS[1 + data[0] % len(CALLS)].name, data[3 : 3 + size]
        data = data[3 + size :]


def _ask(world: _World, calls: Calls, name: str, octets: bytes) -> bytes:
    head = BY_NAME[name].request_head
    try:
        call, arguments = decode_call(head + octets, OFFERED)
    except HsmBridgeError:
        return b""
    try:
        return encode_result(1, call, _results(world, calls.start(call, arguments)), OFFERED)
    except Refused as refused:
        return encode_failure(1, refused.ckr)
    except HsmBridgeError as problem:
        return encode_failure(1, ckr_of(problem.status, call.name))


def _results(world: _World, answer: Answer) -> Sequence[Result]:
    try:
        request = next(answer)
        while True:
            try:
                reply = world.ask(request)
            except HsmBridgeError as problem:
                request = answer.throw(problem)
            else:
                request = answer.send(reply)
    except StopIteration as stop:
        results: Sequence[Result] = stop.value
        return results


BY_NAME: Mapping[str, Call] = {call.name: call for call in CALLS.values()}


def u(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}Q", *numbers)


def ay(value: bytes) -> bytes:
    return b"\1" + string(value)


def fy(room: int) -> bytes:
    return struct.pack(">I", room)


def mechanism(type_: int, *parameter: int | bytes) -> bytes:
    return write_mechanism(Mechanism(type_, parameter or None), OFFERED)


def template(*attributes: tuple[int, int | bytes]) -> bytes:
    return write_template([Attribute(type_, value) for type_, value in attributes], OFFERED)


_CLASS, _TOKEN, _LABEL, _VALUE, _KEY_TYPE, _ID = 0x0, 0x1, 0x3, 0x11, 0x100, 0x102
_SENSITIVE, _ENCRYPT, _DECRYPT, _WRAP, _UNWRAP, _SIGN = 0x103, 0x104, 0x105, 0x106, 0x107, 0x108
_DERIVE, _VALUE_LEN, _EXTRACTABLE, _EC_PARAMS, _EC_POINT = 0x10C, 0x161, 0x162, 0x180, 0x181
_P256 = (_EC_PARAMS, bytes.fromhex("06082a8648ce3d030107"))
_PAIR, _AES, _ECDSA, _GCM, _ECDH, _SHA256, _HMAC = 0x1040, 0x1080, 0x1041, 0x1087, 0x1050, 0x250, 0x251

# A session; a pair that signs (handles 1 and 2), one that agrees (3 and 4), a secret key that encrypts (5).
_PRELUDE = (
    ("C_Initialize", ay(HANDSHAKE) + b"\0" + ay(b"\0")),
    ("C_OpenSession", u(1, 6)),
    ("C_GenerateKeyPair", u(1) + mechanism(_PAIR) + template(_P256) + template((_SIGN, 1))),
    ("C_GenerateKeyPair", u(1) + mechanism(_PAIR) + template(_P256) + template((_DERIVE, 1))),
    ("C_GenerateKey", u(1) + mechanism(_AES) + template((_VALUE_LEN, 32), (_ENCRYPT, 1), (_DECRYPT, 1))),
)
_SECRET = ((_CLASS, 4), (_KEY_TYPE, 0x1F))
_POINT = b"\x04" + bytes.fromhex(
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
_WRAPPING = ("C_GenerateKey", u(1) + mechanism(_AES) + template((_VALUE_LEN, 32), (_WRAP, 1), (_UNWRAP, 1)))
_LEAVING = ("C_GenerateKey", u(1) + mechanism(_AES) + template((_VALUE_LEN, 16), (_ENCRYPT, 1), (_EXTRACTABLE, 1)))
_KEPT = (
    "C_GenerateKey",
    u(1) + mechanism(_AES) + template((_VALUE_LEN, 16), (_TOKEN, 1), (_LABEL, b"kept"), (_ENCRYPT, 1)),
)
_ROWS: tuple[tuple[tuple[str, bytes], ...], ...] = (
    (("C_SignInit", u(1) + mechanism(_ECDSA) + u(2)), ("C_Sign", u(1) + ay(bytes(32)) + fy(64))),
    (
        ("C_SignInit", u(1) + mechanism(0x1044) + u(2)),
        ("C_SignUpdate", u(1) + ay(b"data")),
        ("C_SignFinal", u(1) + fy(64)),
    ),
    (("C_VerifyInit", u(1) + mechanism(_ECDSA) + u(1)), ("C_Verify", u(1) + ay(bytes(32)) + ay(bytes(64)))),
    (
        _KEPT,
        ("C_EncryptInit", u(1) + mechanism(_GCM, b"n" * 12, 96, b"aad", 128) + u(6)),
        ("C_Encrypt", u(1) + ay(b"plaintext") + fy(64)),
    ),
    (
        ("C_EncryptInit", u(1) + mechanism(0x1085, bytes(16)) + u(5)),
        ("C_EncryptUpdate", u(1) + ay(b"plaintext") + fy(64)),
        ("C_EncryptFinal", u(1) + fy(64)),
    ),
    (
        ("C_DigestInit", u(1) + mechanism(_SHA256)),
        ("C_DigestUpdate", u(1) + ay(b"x")),
        ("C_DigestFinal", u(1) + fy(32)),
    ),
    (
        ("C_FindObjectsInit", u(1) + template((_CLASS, 3), (_TOKEN, 0))),
        ("C_FindObjects", u(1) + fy(16)),
        ("C_FindObjectsFinal", u(1)),
    ),
    (("C_GetAttributeValue", u(1, 1) + struct.pack(">I6I", 3, _CLASS, 8, _EC_POINT, 256, _ID, 0)),),
    (
        ("C_SetAttributeValue", u(1, 2) + template((_LABEL, b"renamed"), (_ID, b"\1"))),
        ("C_CopyObject", u(1, 2) + template((_LABEL, b"copy"))),
    ),
    (
        ("C_CreateObject", u(1) + template(*_SECRET, (_VALUE, bytes(32)), (_ENCRYPT, 1), (_TOKEN, 0))),
        ("C_DestroyObject", u(1, 6)),
    ),
    (("C_CreateObject", u(1) + template((_CLASS, 2), (_KEY_TYPE, 3), _P256, (_EC_POINT, b"\x04\x41" + _POINT))),),
    (
        (
            "C_DeriveKey",
            u(1) + mechanism(_ECDH, 1, b"", _POINT) + u(4) + template(*_SECRET, (_VALUE_LEN, 32), (_ENCRYPT, 1)),
        ),
    ),
    (_WRAPPING, _LEAVING, ("C_WrapKey", u(1) + mechanism(_GCM, b"n" * 12, 96, b"", 128) + u(6, 7) + fy(128))),
    (_WRAPPING, ("C_UnwrapKey", u(1) + mechanism(0x2109) + u(6) + ay(bytes(24)) + template(*_SECRET, (_ENCRYPT, 1)))),
    (
        ("C_GetInfo", b""),
        ("C_GetSlotList", b"\1" + fy(8)),
        ("C_GetSlotInfo", u(0)),
        ("C_GetTokenInfo", u(1)),
        ("C_GetMechanismList", u(1) + fy(200)),
        ("C_GetMechanismInfo", u(1, _ECDSA)),
        ("C_GetSessionInfo", u(1)),
        ("C_GenerateRandom", u(1) + fy(32)),
        ("C_Login", u(1, 1) + ay(b"1234")),
        ("C_Logout", u(1)),
        ("C_CloseAllSessions", u(1)),
        ("C_Finalize", b""),
    ),
)


def _seed(row: Sequence[tuple[str, bytes]]) -> bytes:
    return b"".join(bytes([BY_NAME[name].number - 1]) + len(octets).to_bytes(2) + octets for name, octets in row)


TARGET = Target((Reader("calls", ask_all, [_seed(row) for row in _ROWS]),))
