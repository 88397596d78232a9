"""Contexts: operations on data that comes in pieces. Create, init, update, finalize, read, reset, close.

What a context may do was checked as for one-shot operations when it was created, and is checked again at every call
after its slot has changed. Here is who may call what, and what becomes of a context at last; what is done with its data
is the business of `hsmbridge.service.context_data`.
"""

import threading
from collections.abc import Callable
from typing import Final, TypeVar, cast

import msgspec
import structlog

from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import PERMISSION_FOR, KeyOperation
from hsmbridge.core.contexts import ContextCall
from hsmbridge.core.errors import (
    ContextError,
    HsmBridgeError,
    ResourceError,
    SignatureInvalid,
    Status,
    error,
)
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.messages import ContextKind
from hsmbridge.core.room import Room
from hsmbridge.engine.contexts import DEFAULT_HELD_MAX
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.steps import Steps
from hsmbridge.keys.access import AcquiredKey
from hsmbridge.service.catalogue import ProviderCatalogue
from hsmbridge.service.context_data import ContextData
from hsmbridge.service.context_kinds import check_proof, new_context
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.key_making import KeyMaking
from hsmbridge.service.key_use import KeyUse
from hsmbridge.service.open_contexts import Context
from hsmbridge.service.session import Session
from hsmbridge.wire.frames import DEFAULT_MAX_FRAME

HELD_TOGETHER: Final = 4
"""So many times what one context may hold back, all contexts of a connection may hold back together."""

LONGEST_PIECE: Final = 4 * 1024 * 1024
"""Bytes of output in one reply."""

Keys = tuple[AcquiredKey, ...]
Done = Callable[[msgspec.Struct | None, HsmBridgeError | None], None]
T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Contexts:
    """One method an operation; the keys of a new context come acquired, in the order to try them."""

    def __init__(
        self,
        catalogue: ProviderCatalogue,
        handles: Handles,
        access: KeyAccess,
        use: KeyUse,
        making: KeyMaking,
        *,
        held_max: int = DEFAULT_HELD_MAX,
        piece: int = DEFAULT_MAX_FRAME,
    ) -> None:
        """Args: the parts of one-shot operations, and in bytes what one context holds back and one reply carries."""
        self._catalogue = catalogue
        self._access = access
        self._making = making
        self._held_max = held_max
        self._data = ContextData(handles, use, held_max=held_max, piece=min(piece, LONGEST_PIECE))
        self._counting = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        """How many are open, of all connections."""
        return self._count

    def _counted(self, change: int) -> None:
        with self._counting:
            self._count += change

    # Creation

    def encrypt(self, session: Session, request: m.ContextEncryptRequest, keys: Keys) -> Steps[m.ContextReply]:
        context = new_context(request.kind, KeyOperation.ENCRYPT, request.algorithm, request.key)
        return self._create(session, request, context, keys, request.start)

    def decrypt(self, session: Session, request: m.ContextDecryptRequest, keys: Keys) -> Steps[m.ContextReply]:
        context = new_context(request.kind, KeyOperation.DECRYPT, request.algorithm, request.key)
        return self._create(session, request, context, keys, request.start)

    def sign(self, session: Session, request: m.ContextSignRequest, keys: Keys) -> Steps[m.ContextReply]:
        context = new_context(request.kind, KeyOperation.SIGN, request.algorithm, request.key, request.parameters)
        return self._create(session, request, context, keys, request.start)

    def verify(self, session: Session, request: m.ContextVerifyRequest, keys: Keys) -> Steps[m.ContextReply]:
        context = new_context(request.kind, KeyOperation.VERIFY, request.algorithm, request.key, request.parameters)
        return self._create(session, request, context, keys, request.start)

    def digest(self, session: Session, request: m.ContextDigestRequest) -> Steps[m.ContextReply]:
        context = new_context(ContextKind.DIGEST, KeyOperation.DIGEST, request.algorithm, None)
        context.provider = self._catalogue.first_with(request.provider, context.row, KeyOperation.DIGEST)
        return self._create(session, request, context, (), request.start)

    def _create(
        self, session: Session, request: msgspec.Struct, context: Context, keys: Keys, start: m.ContextStart | None
    ) -> Steps[m.ContextReply]:
        contexts = session.contexts
        contexts.check_room()
        if contexts.held is None:
            contexts.held = Room(HELD_TOGETHER * self._held_max)
        if keys:
            context.provider = keys[0].provider
            for key in keys:
                self._catalogue.require(key.provider, context.row, context.operation)
            self._hold(session, context, keys)
        contexts.making[id(request)] = context
        made = False
        try:
            if start is not None:
                context.machine.begin(ContextCall.INIT)
                yield from self._data.start(session, context, start)
                if not context.machine.end(ContextCall.INIT):
                    raise error(Status.OPERATION_TIMED_OUT)
            reply = self._told(contexts.add(context), context)
            made = True
            self._counted(1)
            return reply
        finally:
            del contexts.making[id(request)]
            if not made:
                context.machine.fail()
                yield from self._free(context)

    def _hold(self, session: Session, context: Context, keys: Keys) -> None:
        """Count the keys for as long as the context lives; those that came with the request are released with it."""
        resource = cast(CryptoResourceId, context.resource)
        if resource.kind is ResourceKind.KEY:
            permission = PERMISSION_FOR[context.operation]
            context.keys = (session.resources.ephemeral.acquire(resource, permission, context.row),)
        else:
            context.keys = keys
            context.view = session.resources.slot(resource).view

    # Calls on a context

    def init(self, session: Session, request: m.ContextInitRequest) -> Steps[m.ContextReply]:
        def work(context: Context) -> Steps[m.ContextReply]:
            yield from self._data.start(session, context, request.start)
            return self._told(request.context, context)

        return self._work(session, request.context, ContextCall.INIT, work)

    def update(self, session: Session, request: m.ContextUpdateRequest) -> Steps[m.ContextDataReply]:
        def work(context: Context) -> Steps[m.ContextDataReply]:
            return m.ContextDataReply((yield from self._data.add(context, request.data)))

        return self._work(session, request.context, ContextCall.UPDATE, work)

    def finalize(self, session: Session, request: m.ContextFinalizeRequest) -> Steps[m.ContextFinalReply]:
        def work(context: Context) -> Steps[m.ContextFinalReply | SignatureInvalid]:
            check_proof(context, request.proof)
            try:
                return (yield from self._data.finish(session, context, request.data, request.proof))
            except SignatureInvalid as verdict:
                # That is an answer, not a failure: the context may be reset and verify the next signature.
                context.clear()
                return verdict

        reply = yield from self._work(session, request.context, ContextCall.FINALIZE, work)
        if isinstance(reply, SignatureInvalid):
            raise reply
        return reply

    def read(self, session: Session, request: m.ContextReadRequest) -> Steps[m.ContextDataReply]:
        def work(context: Context) -> Steps[m.ContextDataReply]:
            yield from ()
            piece = self._data.next_piece(context)
            return m.ContextDataReply(piece, len(context.output))

        return self._work(session, request.context, ContextCall.READ, work)

    def reset(self, session: Session, request: m.ContextResetRequest) -> Steps[m.ContextReply]:
        def work(context: Context) -> Steps[m.ContextReply]:
            if not self._catalogue.entry(context.provider).available:
                raise ContextError(Status.CONTEXT_RESET_FAILED)
            yield from self._data.close(context)
            return self._told(request.context, context)

        reply = yield from self._work(session, request.context, ContextCall.RESET, work)
        if request.start is None:
            return reply
        return (yield from self.init(session, m.ContextInitRequest(request.context, request.start)))

    def close(self, session: Session, request: m.ContextCloseRequest) -> Steps[m.Empty]:
        context = session.contexts.remove(request.context)
        self._counted(-1)
        if context.machine.close():
            yield from self._free(context)
        return m.Empty()

    # The ends of things

    def end_all(self, session: Session) -> None:
        """The connection ended: let go of its contexts. Their streams end with all that it had at their providers."""
        contexts = session.contexts.close()
        self._counted(-len(contexts))
        for context in contexts:
            if context.machine.close():
                context.clear()
                context.take_keys()

    def watched(self, session: Session, request: msgspec.Struct, done: Done) -> Done:
        """`done`, which also puts the context of a request whose deadline has passed into ERROR."""
        if type(request) not in _CREATING and type(request) not in _CALLING:
            return done

        def tell(reply: msgspec.Struct | None, failure: HsmBridgeError | None) -> None:
            if failure is not None and failure.status is Status.OPERATION_TIMED_OUT:
                self._give_up(session, request)
            done(reply, failure)

        return tell

    @staticmethod
    def _give_up(session: Session, request: msgspec.Struct) -> None:
        # Whatever its call has under way goes on to its end, and is freed there.
        context = session.contexts.making.get(id(request))
        if context is None and type(request) in _CALLING:
            try:
                context = session.contexts.get(getattr(request, "context", 0))
            except ResourceError:
                return
        if context is not None:
            context.machine.give_up()

    def _free(self, context: Context) -> Steps[None]:
        yield from self._data.close(context)
        yield from self._release(context)

    def _release(self, context: Context) -> Steps[None]:
        for key in context.take_keys():
            freed = key.release()
            if freed is not None:
                yield from self._making.free(freed)

    # Inside

    def _work(self, session: Session, number: int, call: ContextCall, work: Callable[[Context], Steps[T]]) -> Steps[T]:
        context = session.contexts.get(number)
        context.machine.begin(call)
        done = False
        try:
            yield from self._check_keys(session, context)
            reply = yield from work(context)
            done = True
        finally:
            if not done:
                context.machine.fail()
                yield from self._free(context)
        if not context.machine.end(call):
            yield from self._free(context)
            raise ContextError(Status.CONTEXT_FAILED)
        return reply

    def _check_keys(self, session: Session, context: Context) -> Steps[None]:
        """Leave the context the key versions that it may still use. Raises the refusal where there are none left."""
        resource = context.resource
        if resource is None or resource.kind is not ResourceKind.KEY_SLOT:
            return
        entry = session.resources.slot(resource)
        if entry.view is context.view and self._access.is_current(entry):
            return
        permission = PERMISSION_FOR[context.operation]
        left: list[AcquiredKey] = []
        refusal: HsmBridgeError | None = None
        for key in context.keys:
            try:
                (again,) = yield from self._access.acquire(session, resource, permission, context.row, key.version)
                if again.key_id != key.key_id:  # the slot was destroyed and made anew under its name
                    raise ResourceError(Status.RESOURCE_NOT_FOUND)
            except HsmBridgeError as refused:
                refusal = refusal or refused
            else:
                left.append(again)
        if refusal is not None and not left:
            raise refusal
        context.keys = tuple(left)
        context.view = entry.view

    def _told(self, number: int, context: Context) -> m.ContextReply:
        nonce = context.nonce if context.operation is KeyOperation.ENCRYPT else b""
        return m.ContextReply(
            number, context.version, nonce, context.spool is not None, context.provider, self._held_max
        )


_CREATING: Final = frozenset(
    {
        m.ContextEncryptRequest,
        m.ContextDecryptRequest,
        m.ContextSignRequest,
        m.ContextVerifyRequest,
        m.ContextDigestRequest,
    }
)
_CALLING: Final = frozenset(
    {
        m.ContextInitRequest,
        m.ContextUpdateRequest,
        m.ContextFinalizeRequest,
        m.ContextReadRequest,
        m.ContextResetRequest,
    }
)
