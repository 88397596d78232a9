"""The short way: one use of a key that is loaded, by one provider call.

The same checks in the same order as on the long way - identity, access list, permission, algorithm, state, what the
provider claims - but without an operation's steps, because nothing has to be asked of anybody before. Most uses of
keys go this way; it costs a third of what the machinery for waiting costs. Whatever is not plain (a slot to be read
anew, a key to be loaded, nonces to be leased, a refusal) is left to the long way, which does it from the beginning.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import msgspec

from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation, Kind
from hsmbridge.core.calls import DecryptCall, EncryptCall, Encrypted, ProviderCall, ProviderReply, SignCall
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import CryptoResourceId, ResourceKind
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.lanes import Lane
from hsmbridge.engine.runner import Lanes, Runner
from hsmbridge.keys.access import AcquiredKey
from hsmbridge.keys.nonces import ServiceNonces
from hsmbridge.service.audit import AuditSink
from hsmbridge.service.catalogue import ProviderCatalogue
from hsmbridge.service.key_access import KeyAccess
from hsmbridge.service.session import Session

_R = TypeVar("_R")
Done = Callable[[msgspec.Struct | None, HsmBridgeError | None], None]
"""Takes the reply to a request, or its error."""

Failed = Callable[[Session, msgspec.Struct, AcquiredKey, float | None, Done, HsmBridgeError | None], None]
"""Takes over a request whose provider call failed: with which key, and how."""

_Take = Callable[[Session, msgspec.Struct, float | None, Done], bool]


class _NotPlain(Exception):
    """This has to go the long way."""


class ShortWay:
    """Answers at once, or not at all."""

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
        # What is audited one by one is left to the long way, which does that.
        self._takers: dict[type[msgspec.Struct], _Take] = dict(
            taker
            for name, taker in (
                ("sign", _taker(m.SignRequest, self._sign)),
                ("mac", _taker(m.MacRequest, self._mac)),
                ("encrypt", _taker(m.EncryptRequest, self._encrypt)),
                ("decrypt", _taker(m.DecryptRequest, self._decrypt)),
            )
            if not audit.wants(name, Status.OK)
        )

    def bind(self, failed: Failed) -> None:
        """Say who takes over when a provider call that was under way has failed."""
        self._failed = failed

    def take(self, session: Session, request: msgspec.Struct, deadline: float | None, done: Done) -> bool:
        """Whether a request went the short way; `done` takes its outcome then, perhaps before this returns.

        False where it has to go the long way; nothing was done and nobody told.
        """
        taker = self._takers.get(type(request))
        if taker is None:
            return False
        try:
            return taker(session, request, deadline, done)
        except (_NotPlain, HsmBridgeError):
            return False

    def _sign(self, session: Session, r: m.SignRequest, deadline: float | None, done: Done) -> bool:
        key, handle = self._key(session, r.key, P.SIGN, KeyOperation.SIGN, _row(r.algorithm, Kind.SIGNATURE))
        call = SignCall(handle, r.algorithm, r.message, r.parameters)
        return self._go(session, r, key, call, m.SignReply, deadline, done)

    def _mac(self, session: Session, r: m.MacRequest, deadline: float | None, done: Done) -> bool:
        key, handle = self._key(session, r.key, P.SIGN, KeyOperation.SIGN, _row(r.algorithm, Kind.MAC))
        call = SignCall(handle, r.algorithm, r.message)
        return self._go(session, r, key, call, m.MacReply, deadline, done)

    def _go(
        self,
        session: Session,
        request: msgspec.Struct,
        key: AcquiredKey,
        call: SignCall,
        reply: Callable[[bytes, int], msgspec.Struct],
        deadline: float | None,
        done: Done,
    ) -> bool:
        """Inline where the lane does that, else in the lane's own time; the long way is taken up after a failure."""
        lane = self._lanes.lane(key.provider)
        if lane.inline(call):
            done(reply(cast(bytes, lane.perform(call)), key.version), None)
            return True

        def ended(made: ProviderReply, failure: HsmBridgeError | None) -> None:
            if type(made) is bytes:
                done(reply(made, key.version), None)
            else:
                self._failed(session, request, key, deadline, done, failure)

        self._runner.call(lane, call, deadline, ended)
        return True

    def _encrypt(self, session: Session, r: m.EncryptRequest, _: float | None, done: Done) -> bool:
        row = _row(r.algorithm, Kind.AEAD)
        key, handle = self._key(session, r.key, P.ENCRYPT, KeyOperation.ENCRYPT, row)
        if r.nonce or key.slot is None or key.slot.nonce_policy is not NoncePolicy.SERVICE:
            raise _NotPlain
        # The lane is asked before the nonce is taken, so that none is spent on a call that goes the long way.
        lane = self._lane(key, EncryptCall(handle, r.algorithm, b"", r.plaintext, r.aad))
        nonce = self._nonces.next(key.key_id, row.nonce_size)
        if nonce is None:
            raise _NotPlain
        made = cast(Encrypted, lane.perform(EncryptCall(handle, r.algorithm, nonce, r.plaintext, r.aad)))
        done(m.EncryptReply(key.version, made.nonce, made.ciphertext, made.tag), None)
        return True

    def _decrypt(self, session: Session, r: m.DecryptRequest, _: float | None, done: Done) -> bool:
        row = _row(r.algorithm, Kind.AEAD)
        key, handle = self._key(session, r.key, P.DECRYPT, KeyOperation.DECRYPT, row, r.version)
        call = DecryptCall(handle, r.algorithm, r.nonce, r.ciphertext, r.aad, r.tag)
        done(m.DecryptReply(cast(bytes, self._lane(key, call).perform(call)), key.version), None)
        return True

    def _key(
        self,
        session: Session,
        resource: CryptoResourceId,
        permission: P,
        operation: KeyOperation,
        row: Algorithm,
        version: int = 0,
    ) -> tuple[AcquiredKey, int]:
        """The first key version that may serve, checked, with its handle."""
        if resource.kind is not ResourceKind.KEY_SLOT:
            raise _NotPlain
        keys = self._access.acquire_at_once(session, resource, permission, row, version)
        if keys is None:
            raise _NotPlain
        key = keys[0]
        handle = self._handles.known(key.key_id)
        if handle is None or not self._catalogue.claims(key.provider, row, operation):
            raise _NotPlain
        return key, handle

    def _lane(self, key: AcquiredKey, call: ProviderCall) -> Lane:
        lane = self._lanes.lane(key.provider)
        if not lane.inline(call):
            raise _NotPlain
        return lane


def _unbound(
    _: Session, __: msgspec.Struct, ___: AcquiredKey, ____: float | None, done: Done, failure: HsmBridgeError | None
) -> None:
    done(None, failure)


def _row(name: str, kind: Kind) -> Algorithm:
    row = ALGORITHMS.get(name)
    if row is None or row.kind is not kind:
        raise _NotPlain
    return row


def _taker(
    request: type[_R], take: Callable[[Session, _R, float | None, Done], bool]
) -> tuple[type[msgspec.Struct], _Take]:
    # `take` is only ever given requests of its own type, which the table finds it by.
    return cast(type[msgspec.Struct], request), cast(_Take, take)
