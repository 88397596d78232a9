"""A small daemon for tests of the client: a real socket and the real codec, and answers that a test can choose.

It keeps no keys: a signature is the digest of the message. A test may replace the answer to any request, let it
wait, or have the connection end instead.
"""

import hashlib
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from hsmbridge.core import messages as m
from hsmbridge.core.errors import HsmBridgeError, RequestError, ResourceError, SignatureInvalid, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.operations import HELLO_OPCODE
from hsmbridge.wire.codec import (
    decode_batch,
    decode_request,
    encode_batch_reply,
    encode_error,
    encode_reply,
)
from hsmbridge.wire.frames import BATCH, DEFAULT_MAX_FRAME, Frame, FrameReader, body_limit


class HangUp(Exception):
    """Raised by an answer to end the connection without one."""


class LetWait(Exception):
    """Raised by an answer to send none now; `Peer.held` has the request."""


class Peer:
    """One connection as the daemon sees it."""

    def __init__(self, daemon: "EchoDaemon", connection: socket.socket) -> None:
        self.daemon = daemon
        self.socket = connection
        self.ids: dict[CryptoResourceId, str] = {}
        self.names: dict[str, CryptoResourceId] = {}
        self.released: list[CryptoResourceId] = []
        self.held: list[Frame] = []
        self.requests: list[msgspec.Struct] = []
        self.finishing = False

    def serve(self) -> None:
        reader = FrameReader(body_limit(self.daemon.max_frame))
        with self.socket, suppress(OSError, HangUp):
            if self.daemon.refusal is not None:
                self.socket.sendall(encode_error(0, HELLO_OPCODE, self.daemon.refusal))
                return
            while data := self.socket.recv(65536):
                for frame in reader.feed(data):
                    self._serve(frame)
                if self.finishing:
                    # Until something comes, which is left unread.
                    self.socket.recv(1, socket.MSG_PEEK)
                    return

    def answer(self, frame: Frame, reply: msgspec.Struct) -> None:
        self.socket.sendall(encode_reply(frame.request_id, frame.opcode, reply))

    def hang_up(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def resolve(self, request: m.ResolveRequest) -> m.ResolveReply:
        if request.name not in self.daemon.slots:
            raise ResourceError(Status.RESOURCE_NOT_FOUND)
        if request.name not in self.names:
            self.names[request.name] = self.new_id(request.name, ResourceKind.KEY_SLOT)
        return m.ResolveReply(self.names[request.name])

    def new_id(self, name: str, kind: ResourceKind = ResourceKind.KEY) -> CryptoResourceId:
        made = CryptoResourceId(secrets.randbits(64), kind)
        self.ids[made] = name
        return made

    def forget(self, name: str) -> None:
        """Let every id of a slot mean nothing, as when it was destroyed and made anew."""
        del self.ids[self.names.pop(name)]

    def check(self, key: CryptoResourceId) -> None:
        if key not in self.ids:
            raise ResourceError(Status.RESOURCE_NOT_FOUND)

    def _serve(self, frame: Frame) -> None:
        if frame.flags & BATCH:
            _, requests = decode_batch(frame)
            replies = [self._reply_or_error(request) for request in requests]
            self.socket.sendall(encode_batch_reply(frame.request_id, frame.opcode, replies))
            return
        _, request = decode_request(frame)
        self.daemon.deadlines.append(frame.word)
        try:
            reply = self._reply_or_error(request)
        except LetWait:
            self.held.append(frame)
            self.daemon.waiting.release()
            return
        if isinstance(reply, HsmBridgeError):
            self.socket.sendall(encode_error(frame.request_id, frame.opcode, reply))
        else:
            self.answer(frame, reply)

    def _reply_or_error(self, request: msgspec.Struct) -> msgspec.Struct | HsmBridgeError:
        self.requests.append(request)
        answer = self.daemon.answers.get(type(request))
        if answer is None:
            return RequestError(Status.NOT_SUPPORTED)
        try:
            return answer(self, request)
        except HsmBridgeError as problem:
            return problem


Answer = Callable[[Peer, msgspec.Struct], msgspec.Struct]


def signature_of(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


class EchoDaemon:
    """Listens from `start` to `stop`; can be stopped and started again at the same path."""

    def __init__(self, *, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
        self.path = self.folder / "d.sock"
        self.max_frame = max_frame
        self.slots = {"web", "tls"}
        self.peers: list[Peer] = []
        self.deadlines: list[int] = []
        self.waiting = threading.Semaphore(0)
        self.answers: dict[type[msgspec.Struct], Answer] = dict(_ANSWERS)
        self.refusal: HsmBridgeError | None = None
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    def start(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen()
        self._listener = listener
        self._run(lambda: self._accept(listener))

    def stop(self) -> None:
        """End every connection and stop listening, as a daemon that dies."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self.hang_up()
        for thread in self._threads:
            thread.join(10)
        if self._listener is not None:
            self._listener.close()
            self.path.unlink()
            self._listener = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def hang_up(self) -> None:
        for peer in self.peers:
            peer.hang_up()

    def requests(self, kind: type[msgspec.Struct]) -> int:
        """How many requests of a kind came, over all connections."""
        return sum(isinstance(request, kind) for peer in self.peers for request in peer.requests)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                peer = Peer(self, listener.accept()[0])
                self.peers.append(peer)
                self._run(peer.serve)

    def _run(self, action: Callable[[], None]) -> None:
        thread = threading.Thread(target=action, daemon=True)
        self._threads.append(thread)
        thread.start()


def let_wait(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    raise LetWait


def hang_up(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    raise HangUp


def _hello(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    return m.HelloReply(1, "echo", "uid:0", peer.daemon.max_frame, 30_000)


def _ping(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.PingRequest)
    return m.PingReply(request.payload)


def _resolve(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.ResolveRequest)
    return peer.resolve(request)


def _sign(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.SignRequest)
    peer.check(request.key)
    return m.SignReply(signature_of(request.message), 1)


def _sign_many(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.SignManyRequest)
    peer.check(request.key)
    return m.SignManyReply([signature_of(message) for message in request.messages], 1)


def _verify(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.VerifyRequest)
    peer.check(request.key)
    if request.signature != signature_of(request.message):
        raise SignatureInvalid(Status.SIGNATURE_INVALID)
    return m.VerifyReply(1)


def _encrypt(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.EncryptRequest)
    peer.check(request.key)
    return m.EncryptReply(1, b"n" * 12, request.plaintext[::-1], b"t" * 16)


def _decrypt(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.DecryptRequest)
    peer.check(request.key)
    return m.DecryptReply(request.ciphertext[::-1], 1)


def _generate(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.GenerateRequest)
    if request.slot:
        return m.KeyReply(None, 7, b"public")
    return m.KeyReply(peer.new_id(""), 0, b"public")


def _release(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    assert isinstance(request, m.ReleaseRequest)
    peer.check(request.resource)
    del peer.ids[request.resource]
    peer.released.append(request.resource)
    return m.Empty()


_ANSWERS: dict[type[msgspec.Struct], Answer] = {
    m.HelloRequest: _hello,
    m.PingRequest: _ping,
    m.ResolveRequest: _resolve,
    m.SignRequest: _sign,
    m.SignManyRequest: _sign_many,
    m.VerifyRequest: _verify,
    m.EncryptRequest: _encrypt,
    m.DecryptRequest: _decrypt,
    m.GenerateRequest: _generate,
    m.ReleaseRequest: _release,
}
