"""How the data of a context reaches its provider: in pieces as they come, or held back and all at once.

Where the provider takes the data in pieces, it is passed on; where it does not, or only the end tells which of several
key versions is meant, the data is held back within a bound and the one-shot operation is made of it. The decryption of
an AEAD is always held back: no plaintext leaves before the tag was verified. Whether a call belongs where the context
stands, and whether its key may still be used, was decided before.
"""

import secrets
from typing import TypeVar, cast

import structlog

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import KeyOperation
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.messages import ContextKind
from hsmbridge.core.room import Room
from hsmbridge.engine.contexts import Spool
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.steps import Steps, for_bytes, for_encrypted, for_nothing, for_stream_end
from hsmbridge.service.context_kinds import may_stream
from hsmbridge.service.key_use import KeyUse
from hsmbridge.service.open_contexts import Context
from hsmbridge.service.session import Session

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class ContextData:
    """What is done with a context that its caller has for itself."""

    def __init__(self, handles: Handles, use: KeyUse, *, held_max: int, piece: int) -> None:
        """Args: the ways to keys and one-shot operations; bytes that a context holds back, and that a reply carries."""
        self._handles = handles
        self._use = use
        self._held_max = held_max
        self._piece = piece

    def start(self, session: Session, context: Context, start: m.ContextStart) -> Steps[None]:
        """Begin, with a nonce of the service where it encrypts."""
        row = context.row
        if start.aad and context.kind is not ContextKind.AEAD:
            raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} does not authenticate; it takes no aad.")
        if context.operation is KeyOperation.ENCRYPT:
            context.nonce = yield from self._use.nonce(row, context.keys[0], start.nonce)
        else:
            wanted = row.nonce_size if context.operation is KeyOperation.DECRYPT else 0
            if len(start.nonce) != wanted:
                raise RequestError(
                    Status.INVALID_ARGUMENT,
                    f"{row.name} takes a nonce of {wanted} bytes here, not {len(start.nonce)}.",
                )
            context.nonce = start.nonce
        context.aad = start.aad
        if not may_stream(context) or not (yield from self._open_stream(session, context)):
            context.spool = self._spool(session)

    def add(self, context: Context, data: bytes) -> Steps[bytes]:
        """Take a piece; the output, as far as there is any."""
        if context.spool is not None:
            context.spool.add(data)
        elif data:
            call = calls.StreamUpdateCall(context.stream, data)
            return (yield from _streaming(context, for_bytes(context.provider, call)))
        return b""

    def finish(self, session: Session, context: Context, data: bytes, proof: bytes) -> Steps[m.ContextFinalReply]:
        """Take the last piece; the result, or of a longer one its first piece. Raises SignatureInvalid as a verdict."""
        if context.spool is None:
            reply = yield from self._finish_stream(context, data, proof)
        else:
            context.spool.add(data)
            reply = yield from self._at_once(context, context.spool.take(), proof)
        if len(reply.data) <= self._piece:
            context.clear()
            return reply
        # What waits to be read counts as what is held back, or nothing would bound it.
        if context.spool is None:
            context.spool = self._spool(session)
            context.spool.add(reply.data)
        else:
            context.spool.replace(reply.data)
        context.output = memoryview(reply.data)
        return m.ContextFinalReply(self.next_piece(context), reply.tag, reply.version, len(context.output))

    def next_piece(self, context: Context) -> bytes:
        """What was not read yet of a longer result, as much as one reply carries."""
        piece, context.output = bytes(context.output[: self._piece]), context.output[self._piece :]
        if not context.output:
            context.clear()
        return piece

    def close(self, context: Context) -> Steps[None]:
        """Let go of data, and of what the provider has."""
        stream = context.clear()
        if stream:
            try:
                yield from for_nothing(context.provider, calls.StreamCloseCall(stream))
            except HsmBridgeError as failure:  # a provider that is away holds nothing either
                _log.info("a stream was not closed", provider=context.provider, status=failure.status.name)

    def _open_stream(self, session: Session, context: Context) -> Steps[bool]:
        """Whether the provider takes the data in pieces."""
        stream = secrets.randbits(63) | 1

        def opening(handle: int) -> Steps[None]:
            call = calls.StreamOpenCall(
                stream,
                handle,
                context.row.name,
                context.operation,
                context.nonce,
                context.aad,
                context.parameters,
                session.owner,
            )
            return for_nothing(context.provider, call)

        # Before it is there, so that it is closed whatever becomes of the call.
        context.stream = stream
        session.used.add(context.provider)
        try:
            yield from self._handles.use(context.keys[0], opening) if context.keys else opening(0)
        except RequestError as refusal:
            if refusal.status is not Status.NOT_SUPPORTED:
                raise
            context.stream = 0
            return False
        return True

    def _finish_stream(self, context: Context, data: bytes, proof: bytes) -> Steps[m.ContextFinalReply]:
        verified = proof if context.operation is KeyOperation.VERIFY else b""
        call = calls.StreamFinishCall(context.stream, data, verified)
        end = yield from _streaming(context, for_stream_end(context.provider, call))
        context.stream = 0
        return m.ContextFinalReply(end.output, end.tag, context.version)

    def _at_once(self, context: Context, data: bytes, proof: bytes) -> Steps[m.ContextFinalReply]:
        """The one-shot operation over all of the data."""
        use, keys, name = self._use, context.keys, context.row.name
        resource = cast(CryptoResourceId, context.resource)
        match context.kind, context.operation:
            case ContextKind.SIGN, _:
                signed = yield from use.sign(m.SignRequest(resource, name, data, context.parameters), keys)
                return m.ContextFinalReply(signed.signature, b"", signed.version)
            case ContextKind.VERIFY, _:
                verify = m.VerifyRequest(resource, name, data, proof, context.parameters)
                return m.ContextFinalReply(b"", b"", (yield from use.verify(verify, keys)).version)
            case ContextKind.MAC, KeyOperation.SIGN:
                made = yield from use.mac(m.MacRequest(resource, name, data), keys)
                return m.ContextFinalReply(made.mac, b"", made.version)
            case ContextKind.MAC, _:
                verify_mac = m.MacVerifyRequest(resource, name, data, proof)
                return m.ContextFinalReply(b"", b"", (yield from use.verify_mac(verify_mac, keys)).version)
            case ContextKind.DIGEST, _:
                digested = yield from use.digest(m.DigestRequest(name, data, context.provider))
                return m.ContextFinalReply(digested.digest, b"", 0)
            case _, KeyOperation.DECRYPT:
                request = m.DecryptRequest(resource, name, data, context.aad, context.nonce, proof)
                opened = yield from use.decrypt(request, keys)
                return m.ContextFinalReply(opened.plaintext, b"", opened.version)
            case _:
                key = keys[0]
                sealed = yield from self._handles.use(
                    key,
                    lambda handle: for_encrypted(
                        key.provider, calls.EncryptCall(handle, name, context.nonce, data, context.aad)
                    ),
                )
                return m.ContextFinalReply(sealed.ciphertext, sealed.tag, key.version)

    def _spool(self, session: Session) -> Spool:
        return Spool(self._held_max, cast(Room, session.contexts.held), session.shares.data)


def _streaming(context: Context, steps: Steps[T]) -> Steps[T]:
    """A call on the context's stream, which is gone where its provider was restarted."""
    try:
        return (yield from steps)
    except ProviderError as failure:
        if failure.status is not Status.HANDLE_UNKNOWN:
            raise
        raise ProviderError(
            Status.PROVIDER_UNAVAILABLE,
            f"Provider {context.provider} was restarted, and what this context had under way is lost; begin anew.",
            origin=failure.origin,
        ) from None
