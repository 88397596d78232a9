"""Streams that were sound and are not any more, at every socket of the daemon: whoever else is connected goes on.

One client after the other sends what a good one has said, with octets changed, while others sign on connections of
their own and verify every signature. In the daemon's log no fault of its own may stand.
"""

import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from hsmbridge.client import KeyOperationPermission
from hsmbridge.core import messages as m
from hsmbridge.lab.lab import Lab
from hsmbridge.lab.options import LabOptions
from hsmbridge.wire.codec import decode_reply, encode_request
from hsmbridge.wire.frames import FrameReader
from hsmbridge.wire.hello import hello
from tests.interop.p11kit_client import CALL, Client, ay, fy, octets, template, u
from tests.interop.ssh_agent_service import AgentClient, string

SIGN, VERIFY = KeyOperationPermission.SIGN, KeyOperationPermission.VERIFY
FAULTS = ("Traceback", "incident", "unexpectedly", "could not be encoded", "Fatal", "crashed")
STREAMS = 300
ALL_STREAMS = 5_000


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab.start(LabOptions(tpm=False))
    try:
        with lab.config.open("a") as file:
            file.write("\n[frontends.p11kit]\n\n[frontends.ssh_agent]\n")
        lab.restart_daemon()
        with lab.stack() as stack:
            stack.create_slot("witness", "Ed25519", SIGN | VERIFY, providers=["software"])
        yield lab
    finally:
        lab.down()


# What good clients say


def native(lab: Lab, sock: socket.socket) -> list[bytes]:
    """After a hello, as ids of keys mean something on their own connection only."""
    reader = FrameReader(1 << 20, replies=True)

    def ask(number: int, request: Struct) -> Struct:
        sock.sendall(encode_request(number, request))
        return decode_reply(next(iter(reader.feed(sock.recv(65536)))))

    ask(1, hello("mutant"))
    resolved = ask(2, m.ResolveRequest("witness"))
    assert isinstance(resolved, m.ResolveReply)
    key = resolved.resource
    requests = (
        m.PingRequest(b"payload"),
        m.SignRequest(key, "Ed25519", b"data"),
        m.SlotListRequest(),
        m.ProvidersRequest(),
        m.SignRequest(key, "Ed25519", b"data"),
        m.SlotCreateRequest("mutant", "EC-P256", ("software",), int(SIGN | VERIFY)),
        m.SlotShowRequest("mutant"),
        m.CertListRequest(),
        m.ReleaseRequest(key),
    )
    return [encode_request(number, request) for number, request in enumerate(requests, 3)]


def p11kit(lab: Lab, sock: socket.socket) -> list[bytes]:
    plain = struct.pack(">I", 0x1041)
    calls: Sequence[tuple[str, Sequence[bytes]]] = (
        ("C_Initialize", (ay(b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"), b"\0", ay(b"\0"))),
        ("C_GetSlotList", (b"\1", struct.pack(">I", 16))),
        ("C_GetTokenInfo", (u(1),)),
        ("C_GetMechanismList", (u(1), struct.pack(">I", 64))),
        ("C_OpenSession", (u(1), u(6))),
        (
            "C_GenerateKeyPair",
            (
                u(1),
                struct.pack(">I", 0x1040),
                template(EC_PARAMS=bytes.fromhex("06082a8648ce3d030107")),
                template(SIGN=1, LABEL=b"mutant", TOKEN=0),
            ),
        ),
        ("C_SignInit", (u(1), plain, u(2))),
        ("C_Sign", (u(1), ay(bytes(32)), fy(64))),
        ("C_GetAttributeValue", (u(1), u(1), struct.pack(">I4I", 2, 0x0, 8, 0x181, 256))),
        ("C_FindObjectsInit", (u(1), template(LABEL=b"witness"))),
        ("C_FindObjects", (u(1), struct.pack(">I", 10))),
        ("C_FindObjectsFinal", (u(1),)),
        ("C_GenerateKey", (u(1), struct.pack(">I", 0x1080), template(VALUE_LEN=32, ENCRYPT=1, TOKEN=0))),
        ("C_DigestInit", (u(1), struct.pack(">I", 0x250))),
        ("C_DigestUpdate", (u(1), ay(b"digested"))),
        ("C_DigestFinal", (u(1), fy(64))),
        ("C_GenerateRandom", (u(1), fy(32))),
        ("C_CopyObject", (u(1), u(2), template(LABEL=b"copy"))),
        ("C_SetAttributeValue", (u(1), u(2), template(LABEL=b"renamed"))),
        ("C_DestroyObject", (u(1), u(1))),
        ("C_CloseSession", (u(1),)),
        ("C_Finalize", ()),
    )
    frames = [bytes([2])]
    for code, (name, arguments) in enumerate(calls, 16):
        call = CALL[name]
        body = struct.pack(">I", call.number) + octets(call.request.encode()) + b"".join(arguments)
        frames.append(struct.pack(">III", code, 6, len(body)) + b"mutant" + body)
    return frames


def ssh_agent(lab: Lab, sock: socket.socket) -> list[bytes]:
    with AgentClient(lab.runtime_directory / "ssh-agent.sock") as client:
        key = client.identities()[b"witness"]
    session = string(key) + string(b"session") + string(string(b"ssh-ed25519") + string(bytes(64))) + b"\0"
    messages = (
        b"\x0b",
        client.sign_request(key, b"data"),
        b"\x1b" + string(b"query"),
        b"\x1b" + string(b"session-bind@openssh.com") + session,
        client.sign_request(key, b"more", 2),
    )
    return [string(message) for message in messages]


# What witnesses do


def signs_natively(lab: Lab, ended: threading.Event) -> int:
    with lab.stack() as stack:
        count = 0
        while not ended.is_set() or count < 3:
            message = os.urandom(40)
            stack.verify("witness", "Ed25519", message, stack.sign("witness", "Ed25519", message))
            count += 1
    return count


def signs_by_pkcs11(lab: Lab, ended: threading.Event) -> int:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    with Client(lab.runtime_directory / "p11kit.sock") as client:
        session = client.open(client.slot("software"))
        public, private = client.key_pair(session, SIGN=1)
        point = client.attributes(session, public, 0x181)[0][0x181]
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point[2:])
        count = 0
        while not ended.is_set() or count < 3:
            digest = os.urandom(32)
            client.call("C_SignInit", u(session), client.mechanism(0x1041, plain=True), u(private))
            signature = client.call("C_Sign", u(session), ay(digest), fy(64))
            numbers = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
            key.verify(encode_dss_signature(*numbers), digest, ec.ECDSA(Prehashed(SHA256())))
            count += 1
    return count


def signs_for_ssh(lab: Lab, ended: threading.Event) -> int:
    with AgentClient(lab.runtime_directory / "ssh-agent.sock") as client:
        blob = client.identities()[b"witness"]
        key = Ed25519PublicKey.from_public_bytes(blob[-32:])
        count = 0
        while not ended.is_set() or count < 3:
            message = os.urandom(40)
            key.verify(client.ask(client.sign_request(blob, message))[-64:], message)
            count += 1
    return count


WITNESSES = (signs_natively, signs_by_pkcs11, signs_for_ssh)


class Witnesses:
    """Everybody else, until the block ends; then what became of them is told."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._ended = threading.Event()
        self._counts: list[int] = []
        self._problems: list[BaseException] = []
        self._threads = [threading.Thread(target=self._witness, args=(one,)) for one in WITNESSES]

    def _witness(self, what: Callable[[Lab, threading.Event], int]) -> None:
        try:
            self._counts.append(what(self._lab, self._ended))
        except Exception as problem:  # noqa: BLE001 - it is told in the thread that waits
            self._problems.append(problem)

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        assert not self._problems
        assert len(self._counts) == len(WITNESSES)


def mutated(choice: random.Random, frames: Sequence[bytes]) -> bytes:
    """A stream of those frames: some changed, some left out, doubled or moved, the rest as they were."""
    found = list(frames)
    for _ in range(choice.randint(0, 2)):
        place = choice.randrange(1, len(found))
        match choice.randrange(3):
            case 0:
                found.insert(place, found[choice.randrange(len(found))])
            case 1 if len(found) > 2:
                del found[place]
            case _:
                found[place], found[-1] = found[-1], found[place]
    stream = bytearray(b"".join(found))
    for _ in range(choice.randint(1, 4)):
        place = choice.randrange(len(stream))
        match choice.randrange(4):
            case 0:
                stream[place] = choice.randrange(256)
            case 1:
                stream[place] ^= 1 << choice.randrange(8)
            case 2:
                stream[place : place + 4] = choice.choice((b"\xff\xff\xff\xff", bytes(4), b"\0\0\0\1"))
            case _:
                del stream[place : place + choice.randint(1, 4)]
    return bytes(stream)


def talk(lab: Lab, name: str, choice: random.Random) -> None:
    """A whole stream in pieces, and what comes back until the daemon closes; it may close at any time."""
    path = lab.socket if name == "native" else lab.runtime_directory / f"{name}.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(os.fspath(path))
        stream = mutated(choice, FRONT_ENDS[name](lab, sock))
        with suppress(BrokenPipeError, ConnectionResetError):
            send(sock, choice, stream)


def send(sock: socket.socket, choice: random.Random, stream: bytes) -> None:
    while stream:
        size = choice.choice((1, 7, 100, 4096))
        sock.sendall(stream[:size])
        stream = stream[size:]
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):
        pass


FRONT_ENDS = {"native": native, "p11kit": p11kit, "ssh-agent": ssh_agent}


def disturb(lab: Lab, name: str, streams: int) -> None:
    choice = random.Random(name)
    before = len(lab.log.read_text())
    with Witnesses(lab):
        for _ in range(streams):
            talk(lab, name, choice)
    said = lab.log.read_text()[before:]
    assert not [line for line in said.splitlines() if any(fault in line for fault in FAULTS)]


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_mutated_stream_disturbs_nobody_else(lab: Lab, name: str) -> None:
    disturb(lab, name, STREAMS)


@pytest.mark.all
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_thousands_of_mutated_streams_disturb_nobody_else(lab: Lab, name: str) -> None:
    disturb(lab, name, ALL_STREAMS)
