"""A p11-kit client of any version, written after the protocol and not after our codec; and a daemon to talk to."""

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from hsmbridge.wire.p11kit_calls import CALLS

MODULE = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"
CALL = {call.name: call for call in CALLS.values()}
BYTE = {0x1, 0x2, 0x86, *range(0x103, 0x10D), *range(0x162, 0x166), 0x170, 0x171, 0x202, 0x210}
ULONG = {0x0, 0x100, 0x121, 0x160, 0x161, 0x166}


class CkrError(Exception):
    """A call ended with a CKR_*."""

    def __init__(self, ckr: int) -> None:
        super().__init__(f"{ckr:#x}")
        self.ckr = ckr


class Needed(int):
    """In place of an array: how much room it takes."""


def u(number: int) -> bytes:
    return struct.pack(">Q", number)


def octets(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def ay(value: bytes | None) -> bytes:
    return b"\0" + struct.pack(">I", 0) if value is None else b"\1" + octets(value)


def fy(room: int) -> bytes:
    return struct.pack(">I", room)


def template(**attributes: int | bytes) -> bytes:
    """A template, by names such as LABEL."""
    from hsmbridge.frontends.p11kit.numbers import Cka

    parts = []
    for name, value in attributes.items():
        type_ = Cka[name]
        if isinstance(value, bytes):
            parts.append(struct.pack(">IBI", type_, 1, len(value)) + octets(value))
        elif type_ in BYTE:
            parts.append(struct.pack(">IBIB", type_, 1, 1, value))
        else:
            parts.append(struct.pack(">IBI", type_, 1, 8) + u(value))
    return struct.pack(">I", len(parts)) + b"".join(parts)


class Client:
    """One connection."""

    def __init__(self, path: Path, offered: int = 2) -> None:
        self.offered = offered
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(os.fspath(path))
        self.socket.sendall(bytes([offered]))
        assert self._read(1)[0] == min(offered, 2)
        self._code = 16

    def __enter__(self) -> Self:
        self.call("C_Initialize", ay(b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"), b"\0", ay(b"\0"))
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def mechanism(self, type_: int, parameter: bytes | None = None, *, plain: bool = False) -> bytes:
        """M, in the form of this version; `plain` is one without a parameter."""
        head = struct.pack(">I", type_)
        if self.offered >= 2:
            return head if plain else head + (b"\0" if parameter is None else b"\1" + parameter)
        return head + (b"\xff\xff\xff\xff" if parameter is None else parameter)

    def send(self, name: str, *arguments: bytes) -> int:
        """Send a call; answers its number."""
        call = CALL[name]
        body = struct.pack(">II", call.number, len(call.request)) + call.request.encode() + b"".join(arguments)
        code, self._code = self._code, self._code + 1
        self.socket.sendall(struct.pack(">III", code, 6, len(body)) + b"client" + body)
        return code

    def receive(self) -> tuple[int, list[Any] | CkrError]:
        """The next reply, whichever call it is of."""
        code, options, size = struct.unpack(">III", self._read(12))
        self._read(options)
        body = self._read(size)
        number, length = struct.unpack_from(">II", body)
        signature, place = body[8 : 8 + length].decode(), 8 + length
        if not number:
            assert signature == "u"
            return code, CkrError(struct.unpack_from(">Q", body, place)[0])
        assert signature == CALLS[number].response
        return code, _values(CALLS[number].results, body, place)

    def call(self, name: str, *arguments: bytes) -> Any:
        """One call to its end: its result, or a list of several. Raises CkrError."""
        code = self.send(name, *arguments)
        answered, results = self.receive()
        assert answered == code
        if isinstance(results, CkrError):
            raise results
        return results[0] if len(results) == 1 else results

    def open(self, slot: int, *, write: bool = True) -> int:
        """A session."""
        return int(self.call("C_OpenSession", u(slot), u(6 if write else 4)))

    def slot(self, label: str) -> int:
        """The slot of a token."""
        for slot in self.call("C_GetSlotList", b"\1", struct.pack(">I", 16)):
            if self.call("C_GetTokenInfo", u(slot))[0].rstrip() == label.encode():
                return int(slot)
        raise AssertionError(f"there is no token {label}")

    def find(self, session: int, **attributes: int | bytes) -> list[int]:
        """A whole search."""
        self.call("C_FindObjectsInit", u(session), template(**attributes))
        found: list[int] = self.call("C_FindObjects", u(session), struct.pack(">I", 1000))
        self.call("C_FindObjectsFinal", u(session))
        return found

    def attributes(self, session: int, handle: int, *types: int, room: int = 4096) -> tuple[dict[int, Any], int]:
        """Values by type, and the CKR_* of the whole."""
        wanted = struct.pack(">I", len(types)) + b"".join(struct.pack(">II", type_, room) for type_ in types)
        values, ckr = self.call("C_GetAttributeValue", u(session), u(handle), wanted)
        return values, ckr

    def key_pair(self, session: int, **private: int | bytes) -> tuple[int, int]:
        """A P-256 key pair: the handles of its public and its private half."""
        public, own = self.call(
            "C_GenerateKeyPair",
            u(session),
            self.mechanism(0x1040, plain=True),
            template(EC_PARAMS=bytes.fromhex("06082a8648ce3d030107")),
            template(**private),
        )
        return public, own

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("the daemon closed the connection")
            data += piece
        return data


def _values(results: tuple[str, ...], body: bytes, place: int) -> list[Any]:
    values: list[Any] = []
    for token in results:
        value, place = _value(token, body, place)
        values.append(value)
    assert place == len(body)
    return values


def _value(token: str, body: bytes, place: int) -> tuple[Any, int]:
    match token:
        case "u":
            return struct.unpack_from(">Q", body, place)[0], place + 8
        case "v":
            return tuple(body[place : place + 2]), place + 2
        case "P":
            return body[place], place + 1
        case "s":
            size = struct.unpack_from(">I", body, place)[0]
            return body[place + 4 : place + 4 + size], place + 4 + size
        case "ay" | "au":
            there, size = body[place], struct.unpack_from(">I", body, place + 1)[0]
            place += 5
            if not there:
                return Needed(size), place
            if token == "ay":
                return body[place : place + size], place + size
            return list(struct.unpack_from(f">{size}Q", body, place)), place + 8 * size
        case _:
            return _attributes(body, place)


def _attributes(body: bytes, place: int) -> tuple[dict[int, Any], int]:
    values: dict[int, Any] = {}
    count = struct.unpack_from(">I", body, place)[0]
    place += 4
    for _ in range(count):
        type_, valid = struct.unpack_from(">IB", body, place)
        place += 5
        values[type_] = None
        if not valid:
            continue
        memory = struct.unpack_from(">I", body, place)[0]
        place += 4
        if type_ in BYTE:
            values[type_], place = body[place], place + 1
            assert memory == 1
        elif type_ in ULONG:
            values[type_], place = struct.unpack_from(">Q", body, place)[0], place + 8
            assert memory == 8
        else:
            size = struct.unpack_from(">I", body, place)[0]
            size = 0 if size == 0xFFFFFFFF else size
            values[type_] = body[place + 4 : place + 4 + size]
            place += 4 + size
            assert memory == size
    return values, place


class Service:
    """A lab whose daemon speaks to p11-kit clients."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.socket = lab.runtime_directory / "p11kit.sock"

    def client(self, offered: int = 2) -> Client:
        return Client(self.socket, offered)

    def run(self, *command: str | Path, cwd: Path, check: bool = True, **environment: str) -> str:
        """Run somebody else's program with p11-kit's module leading here; answers all that it says."""
        ended = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, "P11_KIT_SERVER_ADDRESS": f"unix:path={self.socket}", "LC_ALL": "C", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        said = ended.stdout.decode(errors="replace")
        assert not check or ended.returncode == 0, f"{command[0]} ended with {ended.returncode}: {said}"
        return said

    def tool(self, *arguments: str | Path, cwd: Path, check: bool = True) -> str:
        """Run pkcs11-tool."""
        return self.run("pkcs11-tool", "--module", MODULE, *arguments, cwd=cwd, check=check)


def start(settings: str = "", options: LabOptions | None = None) -> Lab:
    """A lab with the front end on."""
    lab = Lab.start(options)
    try:
        with lab.config.open("a") as file:
            file.write(f"\n[frontends.p11kit]\n{settings}\n")
        lab.restart_daemon()
    except BaseException:
        lab.down()
        raise
    return lab


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One daemon over software, SoftHSM and a TPM for a module of tests."""
    with start() as lab:
        yield Service(lab)
