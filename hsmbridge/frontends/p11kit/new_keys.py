"""New keys: into a slot named after label and id, or ephemeral, and the objects that they are seen as."""

import secrets
from collections.abc import Callable, Sequence
from typing import Final

from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import ALGORITHMS, Scheme
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.key_types import Family, KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy
from hsmbridge.frontends.asking import Asking, ask
from hsmbridge.frontends.p11kit.names import new_slot_name
from hsmbridge.frontends.p11kit.numbers import Cka, Cko, Ckr, MechanismFlag
from hsmbridge.frontends.p11kit.objects import KeyObject, Origin, objects_of, stable_id
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.state import Application, PkcsSession
from hsmbridge.frontends.p11kit.templates import Wanted
from hsmbridge.wire.p11kit_mechanisms import Mechanism

_NAMES_TRIED: Final = 4

Fill = Callable[[str], Asking[m.KeyReply]]
"""Makes the key: into the slot of a name, or with "" an ephemeral one."""


class NewKeys:
    """Has keys made for one application."""

    def __init__(self, application: Application) -> None:
        """`application`: whose keys these are."""
        self._application = application

    def user(self, handle: int, flags: MechanismFlag, mechanism: Mechanism | None) -> PkcsSession:
        """The session of a call that makes or uses a key by a mechanism. Raises Refused."""
        session = self._application.session(handle)
        self._application.require_login(session)
        info = session.token.mechanisms.get(mechanism.type) if mechanism is not None else None
        if info is None or not info.flags & flags:
            raise Refused(Ckr.MECHANISM_INVALID)
        return session

    def make(
        self,
        session: PkcsSession,
        row: KeyType,
        want: Wanted,
        providers: tuple[str, ...],
        fill: Fill | None,
        kinds: Sequence[Cko],
        *,
        generated: bool = False,
    ) -> Asking[dict[Cko, int]]:
        """The handles of a new key's objects; `fill` None has the slot generate it."""
        self._application.require_login(session)
        if not want.on_token:
            if fill is None:
                raise Refused(Ckr.FUNCTION_FAILED)
            reply = yield from fill("")
            try:
                self._application.session(session.handle)  # which may have been closed meanwhile
                return self._session_objects(session, row, want, providers, reply, kinds, generated=generated)
            except Refused:
                if reply.resource is not None:
                    self._application.forget(Origin(resource=reply.resource))
                    yield from ask(m.ReleaseRequest(reply.resource), m.Empty)
                raise
        if not session.writes:
            raise Refused(Ckr.SESSION_READ_ONLY)
        stamp = self._application.directory.stamp()
        algorithms = _algorithms(row, want, session.token.offered(providers))
        slot = yield from self._slot(row, want, providers, algorithms, empty=fill is not None)
        if fill is not None:
            try:
                yield from fill(slot.name)
            except HsmBridgeError:
                yield from ask(m.SlotDestroyRequest(slot.name), m.Empty)
                raise
            slot = yield from ask(m.SlotShowRequest(slot.name), m.SlotInfo)
        objects = objects_of(slot, self._application.principal)
        return {one.kind: self._application.handle(one, stamp) for one in objects if one.active}

    def _slot(
        self, row: KeyType, want: Wanted, providers: tuple[str, ...], algorithms: tuple[str, ...], *, empty: bool
    ) -> Asking[m.SlotInfo]:
        distinction = "" if want.label or want.id else secrets.token_hex(4)
        attributes = {Cka.LABEL: want.label, Cka.ID: want.id or b"", Cka.SUBJECT: want.subject}
        for attempt in range(_NAMES_TRIED):
            request = m.SlotCreateRequest(
                name=new_slot_name(want.label, want.id, distinction),
                key_type=row.name,
                providers=providers,
                permissions=int(want.permissions),
                algorithms=algorithms,
                nonce_policy=nonce_policy(row),
                sign_and_decrypt=want.sign_and_decrypt,
                empty=empty,
                attributes={int(type_): value for type_, value in attributes.items() if value},
            )
            try:
                return (yield from ask(request, m.SlotInfo))
            except HsmBridgeError as failure:
                if failure.status is not Status.RESOURCE_EXISTS or attempt == _NAMES_TRIED - 1:
                    raise
                distinction = secrets.token_hex(4)
        raise Refused(Ckr.FUNCTION_FAILED)

    def _session_objects(
        self,
        session: PkcsSession,
        row: KeyType,
        want: Wanted,
        providers: tuple[str, ...],
        reply: m.KeyReply,
        kinds: Sequence[Cko],
        *,
        generated: bool,
    ) -> dict[Cko, int]:
        origin = Origin(resource=reply.resource)
        number_ = 0 if reply.resource is None else reply.resource.number
        return {
            kind: self._application.handle(
                KeyObject(
                    origin=origin,
                    kind=kind,
                    row=row,
                    provider=providers[0] if providers else session.token.providers[0].name,
                    permissions=want.permissions,
                    label=want.label,
                    id=want.id or stable_id(reply.public_key, f"session {number_}"),
                    spki=reply.public_key,
                    generated=generated,
                    kept=generated and P.EXPORT not in want.permissions,
                    session=session.handle,
                    subject=want.subject,
                    algorithms=want.algorithms,
                ),
                b"",
            )
            for kind in kinds
        }


def nonce_policy(row: KeyType, slot: str = "") -> NoncePolicy:
    """Of a new key: PKCS#11 leaves nonces to the application. One that goes into a `slot` has that of the slot."""
    return NoncePolicy.CALLER if row.symmetric and not slot else NoncePolicy.SERVICE


def _algorithms(row: KeyType, want: Wanted, offered: frozenset[str]) -> tuple[str, ...]:
    """The algorithms of a new slot. A mechanism stands for several of which a provider may lack some."""
    if not want.algorithms:
        return _one_mode(row, want.permissions, offered)
    found = tuple(name for name in want.algorithms if name in offered)
    if not found:
        raise Refused(Ckr.ATTRIBUTE_VALUE_INVALID)
    return found


_MODES: Final = (Scheme.GCM, Scheme.CBC, Scheme.CTR, Scheme.CFB)
_MODE_USES: Final = P.ENCRYPT | P.DECRYPT | P.WRAP | P.UNWRAP


def _one_mode(row: KeyType, permissions: P, offered: frozenset[str]) -> tuple[str, ...]:
    """The algorithms of a block cipher's key whose template names none: the best mode that PKCS#11 clients can use.

    One mode for each use, as the service has it for all slots; empty leaves it to the service.
    """
    if row.family is not Family.AES:
        return ()
    schemes: list[tuple[Scheme, ...]] = [_MODES] if permissions & _MODE_USES else []
    schemes += [(Scheme.CMAC,)] if permissions & (P.SIGN | P.VERIFY) else []
    fitting = [one for one in ALGORITHMS.values() if one.takes(row) and one.name in offered]
    found = [[one.name for scheme in some for one in fitting if one.scheme is scheme][:1] for some in schemes]
    return tuple(name for names in found for name in names)
