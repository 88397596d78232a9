"""The short way: one use of a key that is loaded, by one provider call.

The same checks in the same order as on the long way - identity, access list, permission, algorithm, state, what the
provider claims - but without an operation's steps, because nothing has to be asked of anybody before. What they
found is kept with the session as long as nothing of it has changed. Most uses of keys go this way. Whatever is not
plain (a slot to be read anew, a key to be loaded, nonces to be leased, a refusal) is left to the long way, which does
it from the beginning.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar, cast

import msgspec

from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import ALGORITHMS, PERMISSION_FOR, KeyOperation, Kind
from hsmbridge.core.calls import (
    DecryptCall,
    DecryptInto,
    EncryptCall,
    Encrypted,
    EncryptInto,
    EncryptManyInto,
    ProviderCall,
    ProviderReply,
    SignCall,
    SignManyCall,
)
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.key_types import Maturity
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.runner import Lanes, Runner
from hsmbridge.keys.access import AcquiredKey
from hsmbridge.keys.nonces import ServiceNonces
from hsmbridge.service.audit import AuditSink
from hsmbridge.service.catalogue import ProviderCatalogue
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.private_memory import PrivateMemory, copy_out
from hsmbridge.service.session import Plan, Session
from hsmbridge.service.shared_use import messages_in

_R = TypeVar("_R")
Done = Callable[[msgspec.Struct | None, HsmBridgeError | None], None]
"""Takes the reply to a request, or its error."""

Failed = Callable[[Session, msgspec.Struct, AcquiredKey, float | None, Done, HsmBridgeError | None], None]
"""Takes over a request whose provider call failed: with which key, and how."""

_PLANNED: Final[Mapping[type[msgspec.Struct], tuple[KeyOperation, Kind]]] = {
    m.SignRequest: (KeyOperation.SIGN, Kind.SIGNATURE),
    m.MacRequest: (KeyOperation.SIGN, Kind.MAC),
    m.EncryptRequest: (KeyOperation.ENCRYPT, Kind.AEAD),
    m.DecryptRequest: (KeyOperation.DECRYPT, Kind.AEAD),
}
"""What plans are for. The forms for many messages and those over shared memory have those of the plain request."""

PLANS_MAX = 1024
"""Plans that one session keeps; then it begins anew."""


class Prepared:
    """A request on the short way whose provider call does not run inline: `ShortWay.start` has it made."""

    __slots__ = ("call", "plan", "reply")

    def __init__(self, plan: Plan, call: ProviderCall, reply: Callable[[ProviderReply], msgspec.Struct]) -> None:
        self.plan = plan
        self.call = call
        self.reply = reply


class _NotPlain(Exception):
    """This has to go the long way."""


_Answer = Callable[[Session, msgspec.Struct], msgspec.Struct | Prepared]


class ShortWay:
    """Answers at once, or prepares the one call that answers, or leaves a request alone."""

    def __init__(
        self,
        access: KeyAccess,
        catalogue: ProviderCatalogue,
        handles: Handles,
        lanes: Lanes,
        runner: Runner,
        nonces: ServiceNonces,
        audit: AuditSink,
    ) -> None:
        """Args: the same parts that the long way goes through."""
        self._runner = runner
        self._failed: Failed = _unbound
        self._access = access
        self._catalogue = catalogue
        self._handles = handles
        self._lanes = lanes
        self._nonces = nonces
        self._private = PrivateMemory()
        # What is audited one by one is left to the long way, which does that.
        self._answers: dict[type[msgspec.Struct], _Answer] = dict(
            answer
            for name, answer in (
                ("sign", _entry(m.SignRequest, self._sign)),
                ("sign-many", _entry(m.SignManyRequest, self._sign_many)),
                ("mac", _entry(m.MacRequest, self._mac)),
                ("encrypt", _entry(m.EncryptRequest, self._encrypt)),
                ("decrypt", _entry(m.DecryptRequest, self._decrypt)),
                ("shared-encrypt", _entry(m.SharedEncryptRequest, self._shared_encrypt)),
                ("shared-encrypt-many", _entry(m.SharedEncryptManyRequest, self._shared_encrypt_many)),
                ("shared-decrypt", _entry(m.SharedDecryptRequest, self._shared_decrypt)),
            )
            if not audit.wants(name, Status.OK)
        )

    def bind(self, failed: Failed) -> None:
        """Say who takes over when a provider call that was under way has failed."""
        self._failed = failed

    def answer(self, session: Session, request: msgspec.Struct) -> msgspec.Struct | Prepared | None:
        """The reply, or the call that leads to it.

        None where the request has to go the long way; nothing was done then.
        """
        answer = self._answers.get(type(request))
        if answer is None:
            return None
        try:
            return answer(session, request)
        except (_NotPlain, HsmBridgeError):
            return None

    def start(
        self, prepared: Prepared, session: Session, request: msgspec.Struct, deadline: float | None, done: Done
    ) -> bool:
        """Have a prepared call made; `done` takes the outcome, from any thread. False where its lane takes none now."""

        def ended(made: ProviderReply, failure: HsmBridgeError | None) -> None:
            if failure is not None:
                self._failed(session, request, prepared.plan.key, deadline, done, failure)
                return
            try:
                reply = prepared.reply(made)
            except HsmBridgeError as problem:  # a result that its target has no room for
                done(None, problem)
            else:
                done(reply, None)

        try:
            self._runner.call(prepared.plan.lane, prepared.call, deadline, ended)
        except HsmBridgeError:
            return False
        return True

    def _sign(self, session: Session, r: m.SignRequest) -> m.SignReply | Prepared:
        plan = self._planned(session, m.SignRequest, r.key, r.algorithm)
        call = SignCall(plan.handle, r.algorithm, r.message, r.parameters)
        if plan.lane.inline(call):
            return m.SignReply(cast(bytes, plan.lane.perform(call)), plan.version)
        version = plan.version
        return Prepared(plan, call, lambda made: m.SignReply(cast(bytes, made), version))

    def _sign_many(self, session: Session, r: m.SignManyRequest) -> m.SignManyReply:
        plan = self._planned(session, m.SignRequest, r.key, r.algorithm)
        call = SignManyCall(plan.handle, r.algorithm, r.messages, r.parameters)
        if not plan.lane.inline(call):
            raise _NotPlain
        return m.SignManyReply(cast(list[bytes], plan.lane.perform(call)), plan.version)

    def _mac(self, session: Session, r: m.MacRequest) -> m.MacReply | Prepared:
        plan = self._planned(session, m.MacRequest, r.key, r.algorithm)
        call = SignCall(plan.handle, r.algorithm, r.message)
        if plan.lane.inline(call):
            return m.MacReply(cast(bytes, plan.lane.perform(call)), plan.version)
        version = plan.version
        return Prepared(plan, call, lambda made: m.MacReply(cast(bytes, made), version))

    def _encrypt(self, session: Session, r: m.EncryptRequest) -> m.EncryptReply:
        plan = self._planned(session, m.EncryptRequest, r.key, r.algorithm)
        key = plan.key
        if r.nonce or key.slot is None or key.slot.nonce_policy is not NoncePolicy.SERVICE:
            raise _NotPlain
        # The lane is asked before the nonce is taken, so that none is spent on a call that goes the long way.
        if not plan.lane.inline(EncryptCall(plan.handle, r.algorithm, b"", r.plaintext, r.aad)):
            raise _NotPlain
        nonce = self._nonces.next(key.key_id, plan.row.nonce_size)
        if nonce is None:
            raise _NotPlain
        made = cast(Encrypted, plan.lane.perform(EncryptCall(plan.handle, r.algorithm, nonce, r.plaintext, r.aad)))
        return m.EncryptReply(plan.version, made.nonce, made.ciphertext, made.tag)

    def _decrypt(self, session: Session, r: m.DecryptRequest) -> m.DecryptReply:
        plan = self._planned(session, m.DecryptRequest, r.key, r.algorithm, r.version)
        call = DecryptCall(plan.handle, r.algorithm, r.nonce, r.ciphertext, r.aad, r.tag)
        if not plan.lane.inline(call):
            raise _NotPlain
        return m.DecryptReply(cast(bytes, plan.lane.perform(call)), plan.version)

    def _shared_encrypt(self, session: Session, r: m.SharedEncryptRequest) -> m.SharedEncryptReply | Prepared:
        plan = self._planned(session, m.EncryptRequest, r.key, r.algorithm)
        key, memory = plan.key, session.memory
        if r.nonce or key.slot is None or key.slot.nonce_policy is not NoncePolicy.SERVICE or memory is None:
            raise _NotPlain
        # Read in place, as `hsmbridge.service.shared_use` says; a bad range is refused on the long way.
        plaintext, target = memory.view(r.source), memory.view(r.target)
        length = len(plaintext)
        if len(target) < length or _cross(r.source, r.target):
            raise _NotPlain
        nonce = self._nonces.next(key.key_id, plan.row.nonce_size)
        if nonce is None:
            raise _NotPlain
        version = plan.version

        def reply(made: ProviderReply) -> m.SharedEncryptReply:
            encrypted = cast(Encrypted, made)
            if encrypted.ciphertext:
                memory.put(r.target, encrypted.ciphertext)
            return m.SharedEncryptReply(version, encrypted.nonce, encrypted.tag, len(encrypted.ciphertext) or length)

        call = (
            EncryptInto(plan.handle, r.algorithm, nonce, plaintext, r.aad, target)
            if plan.lane.local
            else EncryptCall(plan.handle, r.algorithm, nonce, cast(bytes, plaintext), r.aad)
        )
        return reply(plan.lane.perform(call)) if plan.lane.inline(call) else Prepared(plan, call, reply)

    def _shared_encrypt_many(
        self, session: Session, r: m.SharedEncryptManyRequest
    ) -> m.SharedEncryptManyReply | Prepared:
        plan = self._planned(session, m.EncryptRequest, r.key, r.algorithm)
        key, memory = plan.key, session.memory
        if key.slot is None or key.slot.nonce_policy is not NoncePolicy.SERVICE or memory is None:
            raise _NotPlain
        if not plan.lane.local:
            raise _NotPlain
        messages = messages_in(memory, r, plan.row.tag_size)
        nonces = self._nonces.take(key.key_id, len(messages), plan.row.nonce_size)
        if nonces is None:
            raise _NotPlain
        call = EncryptManyInto(plan.handle, r.algorithm, nonces, messages, r.aads)
        reply = m.SharedEncryptManyReply(plan.version, nonces)
        if plan.lane.inline(call):
            plan.lane.perform(call)
            return reply
        return Prepared(plan, call, lambda _: reply)

    def _shared_decrypt(self, session: Session, r: m.SharedDecryptRequest) -> m.SharedDecryptReply | Prepared:
        memory = session.memory
        if memory is None:
            raise _NotPlain
        source, target = memory.view(r.source), memory.view(r.target)
        plan = self._planned(session, m.DecryptRequest, r.key, r.algorithm, r.version)
        end = len(source) + len(r.tag)
        length = end - plan.row.tag_size
        if not plan.lane.local or len(r.tag) not in (0, plan.row.tag_size) or not 0 <= length <= len(target):
            raise _NotPlain
        # No plaintext is seen before its tag is verified.
        sealed, private = source, self._private.take(end)
        if r.tag:
            sealed = private[:end]
            sealed[:length], sealed[length:] = source, r.tag
        version = plan.version

        def reply(made: ProviderReply) -> m.SharedDecryptReply:
            written = cast(int, made)
            copy_out(private[:written], target[:written])
            self._private.give_back(private)
            return m.SharedDecryptReply(version, written)

        call = DecryptInto(plan.handle, r.algorithm, r.nonce, sealed, r.aad, private[:length])
        return reply(plan.lane.perform(call)) if plan.lane.inline(call) else Prepared(plan, call, reply)

    def _planned(
        self,
        session: Session,
        request: type[msgspec.Struct],
        resource: CryptoResourceId,
        algorithm: str,
        version: int = 0,
    ) -> Plan:
        """The plan that was kept, while it holds, or a new one."""
        plan = session.plans.get((request, resource.number, algorithm, version))
        if plan is not None and self._holds(plan, resource):
            return plan
        return self._plan(session, request, resource, algorithm, version)

    def _holds(self, plan: Plan, resource: CryptoResourceId) -> bool:
        """Whether all that the plan was made from is as it was."""
        key = plan.key
        # In this order: the slot may be read anew by another thread at any moment, and a view that was replaced never
        # comes back, so that the view that is still there afterwards is the one that was found to be current.
        return (
            resource.kind is ResourceKind.KEY_SLOT
            and self._access.is_current(plan.entry)
            and plan.entry.view is plan.view
            and self._handles.known(key.key_id) == plan.handle
            and self._lanes.lane(key.provider) is plan.lane
        )

    def _plan(
        self,
        session: Session,
        request: type[msgspec.Struct],
        resource: CryptoResourceId,
        algorithm: str,
        version: int,
    ) -> Plan:
        """The version asked for, or the first that may serve: checked, with its handle and the way to its provider."""
        operation, kind = _PLANNED[request]
        permission = PERMISSION_FOR[operation]
        row = ALGORITHMS.get(algorithm)
        if row is None or row.kind is not kind or resource.kind is not ResourceKind.KEY_SLOT:
            raise _NotPlain
        if row.maturity is not Maturity.CURRENT and permission is not P.DECRYPT:
            raise _NotPlain
        entry = session.resources.slot(resource)
        view = entry.view
        keys = self._access.acquire_at_once(session, resource, permission, row, version)
        if keys is None:
            raise _NotPlain
        key = keys[0]
        handle = self._handles.known(key.key_id)
        if handle is None or not self._catalogue.claims(key.provider, row, operation):
            raise _NotPlain
        if len(session.plans) >= PLANS_MAX:
            session.plans.clear()
        plan = Plan(entry, view, key, row, handle, self._lanes.lane(key.provider))
        session.plans[(request, resource.number, algorithm, version)] = plan
        return plan


def _cross(source: m.SharedRange, target: m.SharedRange) -> bool:
    """Whether a ciphertext would lie across its plaintext, and be written over what is not encrypted yet."""
    return source.offset != target.offset and abs(source.offset - target.offset) < source.length


def _unbound(
    _: Session, __: msgspec.Struct, ___: AcquiredKey, ____: float | None, done: Done, failure: HsmBridgeError | None
) -> None:
    done(None, failure)


def _entry(
    request: type[_R], answer: Callable[[Session, _R], msgspec.Struct | Prepared]
) -> tuple[type[msgspec.Struct], _Answer]:
    # `answer` is only ever given requests of its own type, which the table finds it by.
    return cast(type[msgspec.Struct], request), cast(_Answer, answer)
