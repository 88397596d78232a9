"""The SSH agent protocol (RFC 9987) as an agent speaks it, and the data types of SSH (RFC 4251). No socket.

A connection is a stream of messages: four bytes of length, a byte that says what it is, and its contents. No message
is longer than 256 KiB either way, as in OpenSSH. A stream that is none raises WireError and can not be read any
further; a message whose contents cannot be read raises WireError as well, and is answered with a failure. What the
messages mean is the front end's business.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag, unique
from typing import Final, NamedTuple

from hsmbridge.core.errors import Status, WireError

MESSAGE_MAX: Final = 256 * 1024
"""Bytes of a message after its length."""

LENGTH_SIZE: Final = 4
_U32 = struct.Struct(">I")


@unique
class MessageNumber(IntEnum):
    """What a message is; those that are not here are answered with a failure."""

    FAILURE = 5
    SUCCESS = 6
    REQUEST_IDENTITIES = 11
    IDENTITIES_ANSWER = 12
    SIGN_REQUEST = 13
    SIGN_RESPONSE = 14
    EXTENSION = 27
    EXTENSION_FAILURE = 28
    EXTENSION_RESPONSE = 29


class SignFlag(IntFlag):
    """Which hash an RSA key signs with. Neither is ssh-rsa, with SHA-1."""

    RSA_SHA2_256 = 2
    RSA_SHA2_512 = 4


class RequestIdentities(NamedTuple):
    """Asks which keys there are."""


class SignRequest(NamedTuple):
    """Asks for a signature; `key` is the public key as SSH encodes it."""

    key: bytes
    data: bytes
    flags: int


class ExtensionRequest(NamedTuple):
    """Asks for something by its name; only who knows the name can read the contents."""

    name: bytes
    contents: bytes


class OtherRequest(NamedTuple):
    """Something that this agent does not do, unread."""

    number: int


Request = RequestIdentities | SignRequest | ExtensionRequest | OtherRequest


class Identity(NamedTuple):
    """A key that there is: the public key as SSH encodes it, and what people call it."""

    key: bytes
    comment: bytes


class SessionBinding(NamedTuple):
    """session-bind@openssh.com: which SSH session a connection is used for, and whether that is to forward it."""

    host_key: bytes
    session_id: bytes
    signature: bytes
    forwarding: bool


def malformed(what: str) -> WireError:
    """What is raised for anything that does not follow the protocol."""
    return WireError(Status.MALFORMED_FRAME, f"Not a message of the SSH agent protocol: {what}.")


class MessageReader:
    """Cuts the client's stream into messages."""

    __slots__ = ("_buffer", "_failed")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._failed = False

    @property
    def unfinished(self) -> bool:
        """Whether the rest of a message is still to come."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes, without their lengths. Raises WireError; the stream has ended then."""
        if self._failed:
            raise malformed("the stream is broken")
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        start = 0
        while len(buffer) - start >= LENGTH_SIZE:
            (size,) = _U32.unpack_from(buffer, start)
            if not 1 <= size <= MESSAGE_MAX:
                self._failed = True
                buffer.clear()
                raise malformed("it is empty") if not size else WireError(Status.FRAME_TOO_LARGE)
            begin = start + LENGTH_SIZE
            if len(buffer) < begin + size:
                break
            start = begin + size
            messages.append(bytes(memoryview(buffer)[begin:start]))
        del buffer[:start]
        return messages


class DataReader:
    """A place in a message, going forward. Every length is checked before anything is taken."""

    __slots__ = ("_data", "_place")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._place

    def byte(self) -> int:
        """One byte."""
        return self._take(1)[0]

    def u32(self) -> int:
        """A uint32."""
        return int.from_bytes(self._take(4), "big")

    def string(self) -> bytes:
        """A length and as many bytes."""
        return self._take(self.u32())

    def rest(self) -> bytes:
        """Everything that follows."""
        return self._take(self.left)

    def end(self) -> None:
        """Raises WireError where something follows."""
        if self.left:
            raise malformed("something follows its end")

    def _take(self, size: int) -> bytes:
        if size > self.left:
            raise malformed("it ends too early")
        place = self._place
        self._place = place + size
        return self._data[place : place + size]


def decode_request(message: bytes) -> Request:
    """What a message asks for. Raises WireError (MALFORMED_FRAME)."""
    reader = DataReader(message)
    number = reader.byte()
    match number:
        case MessageNumber.REQUEST_IDENTITIES:
            reader.end()
            return RequestIdentities()
        case MessageNumber.SIGN_REQUEST:
            sign = SignRequest(reader.string(), reader.string(), reader.u32())
            reader.end()
            return sign
        case MessageNumber.EXTENSION:
            return ExtensionRequest(reader.string(), reader.rest())
        case _:
            return OtherRequest(number)


def decode_session_binding(contents: bytes) -> SessionBinding:
    """The contents of session-bind@openssh.com. Raises WireError (MALFORMED_FRAME)."""
    reader = DataReader(contents)
    binding = SessionBinding(reader.string(), reader.string(), reader.string(), bool(reader.byte()))
    reader.end()
    return binding


def string(value: bytes) -> bytes:
    """A length and the bytes."""
    return _U32.pack(len(value)) + value


def mpint(number: int) -> bytes:
    """A multiple precision integer that is not negative."""
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big") if number else b"")


FAILURE: Final = string(bytes([MessageNumber.FAILURE]))
SUCCESS: Final = string(bytes([MessageNumber.SUCCESS]))
EXTENSION_FAILURE: Final = string(bytes([MessageNumber.EXTENSION_FAILURE]))


def encode_identities(identities: Sequence[Identity]) -> bytes:
    """The answer to REQUEST_IDENTITIES, of as many as fit into a message."""
    parts: list[bytes] = []
    size = 1 + 4
    for identity in identities:
        part = string(identity.key) + string(identity.comment)
        size += len(part)
        if size > MESSAGE_MAX:
            break
        parts.append(part)
    return string(bytes([MessageNumber.IDENTITIES_ANSWER]) + _U32.pack(len(parts)) + b"".join(parts))


def encode_signature(signature: bytes) -> bytes:
    """The answer to SIGN_REQUEST; `signature` as SSH encodes it, with the name of its algorithm."""
    return string(bytes([MessageNumber.SIGN_RESPONSE]) + string(signature))


def encode_extensions(names: Sequence[bytes]) -> bytes:
    """The answer to the extension "query"."""
    return string(bytes([MessageNumber.EXTENSION_RESPONSE]) + string(b"query") + b"".join(map(string, names)))
