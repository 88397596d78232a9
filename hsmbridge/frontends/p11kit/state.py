"""What PKCS#11 keeps for one application: sessions, login, handles and operations under way. One connection's.

Nothing here is shared with another connection; handles mean something on this one only.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, auto
from typing import Final, Protocol

from hsmbridge.core import messages as m
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.policy import PinOwner
from hsmbridge.frontends.asking import Asking, ask
from hsmbridge.frontends.p11kit.directory import Directory
from hsmbridge.frontends.p11kit.numbers import Cka, Cko, Ckr, SessionFlag, SessionState
from hsmbridge.frontends.p11kit.objects import KeyObject, Origin, PkcsObject
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.settings import LoginPolicy, P11KitSettings
from hsmbridge.frontends.p11kit.tokens import Token
from hsmbridge.wire.p11kit_mechanisms import USABLE

MAX_HANDLES: Final = 65_536
"""Objects that one application may have handles of."""


class Active(IntEnum):
    """The kinds of operation, of which a session has one each. Integers, because those are quick keys."""

    FIND = auto()
    SIGN = auto()
    VERIFY = auto()
    ENCRYPT = auto()
    DECRYPT = auto()
    DIGEST = auto()


class Operation(Protocol):
    """One operation under way; what it is only its own calls know."""

    @property
    def size(self) -> int:
        """Bytes of data that it has collected."""
        ...


@dataclass(eq=False, slots=True)
class PkcsSession:
    """One PKCS#11 session: its token, whether it may write, its operations."""

    handle: int
    token: Token
    flags: int
    operations: dict[Active, Operation] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether it is a read-write session."""
        return bool(self.flags & SessionFlag.RW_SESSION)

    def begin(self, kind: Active, operation: Operation) -> None:
        """Raises Refused (CKR_OPERATION_ACTIVE)."""
        if kind in self.operations:
            raise Refused(Ckr.OPERATION_ACTIVE)
        self.operations[kind] = operation


class Application:
    """One connection's PKCS#11 world.

    Attributes:
        offered: the version that the client offered, which says what it understands.
        principal: who it is.
        initialized: between C_Initialize and C_Finalize.
    """

    def __init__(
        self,
        principal: str,
        offered: int,
        directory: Directory,
        settings: P11KitSettings,
        in_use: Callable[[str, int], bool],
    ) -> None:
        """Args: who, speaking what, what there is, how this front end is to behave.

        `in_use` says whether any application of a principal has a session with the token in a slot.
        """
        self._in_use = in_use
        self.principal = principal
        self.offered = offered
        self.directory = directory
        self.settings = settings
        self.initialized = False
        self.usable = USABLE[min(offered, 2)]
        self._sessions: dict[int, PkcsSession] = {}
        self._logged_in: dict[int, PinOwner] = {}
        self._objects: dict[int, PkcsObject] = {}
        self._handles: dict[tuple[Origin, Cko], int] = {}
        self._hidden: set[tuple[Origin, Cko]] = set()
        self._buried: set[int] = set()
        self._stamps: dict[int, bytes] = {}
        self._resources: dict[str, CryptoResourceId] = {}
        self._next_session = 1
        self._next_object = 1

    # Tokens

    def tokens(self) -> Asking[tuple[Token, ...]]:
        """The tokens, as of now."""
        return (yield from self.directory.tokens())

    def token(self, slot: int) -> Asking[Token]:
        """The token in a slot. Raises Refused (CKR_SLOT_ID_INVALID, CKR_TOKEN_NOT_PRESENT)."""
        token = yield from self.slot(slot)
        if not token.present:
            raise Refused(Ckr.TOKEN_NOT_PRESENT)
        return token

    def slot(self, slot: int) -> Asking[Token]:
        """A slot, whether there is a token in it or not. Raises Refused (CKR_SLOT_ID_INVALID)."""
        tokens = yield from self.directory.tokens()
        if slot >= len(tokens):
            raise Refused(Ckr.SLOT_ID_INVALID)
        return tokens[slot]

    # Sessions

    def in_use(self, slot: int) -> bool:
        """Whether the principal has a session with the token in a slot, in whatever application."""
        return self._in_use(self.principal, slot)

    def open(self, token: Token, flags: int) -> PkcsSession:
        """A new session. Raises Refused."""
        if not flags & SessionFlag.SERIAL_SESSION:
            raise Refused(Ckr.SESSION_PARALLEL_NOT_SUPPORTED)
        if not flags & SessionFlag.RW_SESSION and self._logged_in.get(token.number) is PinOwner.SO:
            raise Refused(Ckr.SESSION_READ_WRITE_SO_EXISTS)
        if len(self._sessions) >= self.settings.max_sessions:
            raise Refused(Ckr.SESSION_COUNT)
        session = PkcsSession(self._next_session, token, flags & (SessionFlag.RW_SESSION | SessionFlag.SERIAL_SESSION))
        self._next_session += 1
        self._sessions[session.handle] = session
        return session

    def session(self, handle: int) -> PkcsSession:
        """Raises Refused (CKR_SESSION_HANDLE_INVALID)."""
        session = self._sessions.get(handle)
        if session is None:
            raise Refused(Ckr.SESSION_HANDLE_INVALID)
        return session

    def sessions_of(self, slot: int) -> list[PkcsSession]:
        """The sessions with a token."""
        return [session for session in self._sessions.values() if session.token.number == slot]

    def all_sessions(self) -> list[PkcsSession]:
        """Every session."""
        return list(self._sessions.values())

    def require_room(self, size: int) -> None:
        """Raises Refused (CKR_DEVICE_MEMORY) where all operations together would collect too much."""
        collected = sum(
            operation.size for session in self._sessions.values() for operation in session.operations.values()
        )
        if collected + size > _COLLECTED * self.settings.max_data:
            raise Refused(Ckr.DEVICE_MEMORY)

    def close(self, session: PkcsSession) -> Asking[None]:
        """End a session with its objects; the login ends with the last one of a token."""
        if self._sessions.pop(session.handle, None) is None:
            return
        if not self.sessions_of(session.token.number):
            self._logged_in.pop(session.token.number, None)
        ending = [one for one in self._objects.values() if one.session == session.handle]
        for one in ending:
            self._forget(one)
        for resource in {one.origin.resource for one in ending if one.origin.resource is not None}:
            yield from ask(m.ReleaseRequest(resource), m.Empty)

    # Login

    def logged_in(self, session: PkcsSession) -> PinOwner | None:
        """Who is logged in, for all sessions with the token."""
        return self._logged_in.get(session.token.number)

    def require_may_log_in(self, session: PkcsSession, owner: PinOwner) -> None:
        """Raises Refused (CKR_USER_ALREADY_LOGGED_IN, and what else stands in the way)."""
        there = self.logged_in(session)
        if there is owner:
            raise Refused(Ckr.USER_ALREADY_LOGGED_IN)
        if there is not None:
            raise Refused(Ckr.USER_ANOTHER_ALREADY_LOGGED_IN)
        if owner is PinOwner.SO and not all(other.writes for other in self.sessions_of(session.token.number)):
            raise Refused(Ckr.SESSION_READ_ONLY_EXISTS)

    def log_in(self, session: PkcsSession, owner: PinOwner) -> None:
        """Whose PIN was right is logged in. Raises Refused as `require_may_log_in`."""
        self.require_may_log_in(session, owner)
        self._logged_in[session.token.number] = owner

    def log_out(self, session: PkcsSession) -> None:
        """Raises Refused (CKR_USER_NOT_LOGGED_IN)."""
        if self._logged_in.pop(session.token.number, None) is None:
            raise Refused(Ckr.USER_NOT_LOGGED_IN)
        for other in self.sessions_of(session.token.number):
            other.operations.clear()

    def trusted(self, session: PkcsSession) -> bool:
        """Whether private objects may be seen and used in a session."""
        return self.settings.login is LoginPolicy.NONE or self.logged_in(session) is PinOwner.USER

    def require_login(self, session: PkcsSession) -> None:
        """Raises Refused (CKR_USER_NOT_LOGGED_IN)."""
        if not self.trusted(session):
            raise Refused(Ckr.USER_NOT_LOGGED_IN)

    def state(self, session: PkcsSession) -> SessionState:
        """CKS_* of a session."""
        there = self.logged_in(session)
        if there is PinOwner.SO:
            return SessionState.RW_SO_FUNCTIONS
        if session.writes:
            return SessionState.RW_USER_FUNCTIONS if there else SessionState.RW_PUBLIC_SESSION
        return SessionState.RO_USER_FUNCTIONS if there else SessionState.RO_PUBLIC_SESSION

    # Objects

    def handle(self, one: PkcsObject, stamp: bytes) -> int:
        """The handle of an object, the same each time it is seen; `stamp` is of before it was read.

        Raises Refused (CKR_DEVICE_MEMORY) past the limit.
        """
        key = (one.origin, one.kind)
        handle = self._handles.get(key)
        if handle is None:
            if len(self._objects) >= MAX_HANDLES:
                raise Refused(Ckr.DEVICE_MEMORY)
            handle = self._handles[key] = self._next_object
            self._next_object += 1
            self._objects[handle] = one
        else:
            self._objects[handle] = one
        self._stamps[handle] = stamp
        return handle

    def hide(self, one: PkcsObject) -> None:
        """The application has destroyed this half of a key whose other half is still there."""
        self._hidden.add((one.origin, one.kind))

    def hidden(self, one: PkcsObject) -> bool:
        """Whether the application has destroyed its view of an object."""
        return bool(self._hidden) and (one.origin, one.kind) in self._hidden

    def session_objects(self) -> Iterator[PkcsObject]:
        """The ephemeral ones."""
        return (one for one in self._objects.values() if not one.on_token)

    def key_at_once(self, session: PkcsSession, handle: int) -> KeyObject | None:
        """A key as it is now, where nothing has changed since it was read; else `live_key` says what is with it."""
        one = self._objects.get(handle)
        if (
            type(one) is KeyObject
            and not self._hidden
            and self._stamps[handle] == (self.directory.stamp() if one.origin.resource is None else b"")
            and session.token.holds(one.provider)
            and self.trusted(session)
        ):
            return one
        return None

    def live_key(self, session: PkcsSession, handle: int, missing: Ckr) -> Asking[KeyObject]:
        """A key as it is now. Raises Refused: `missing` where it is gone, not to be seen here, or no key."""
        one = yield from self.live(session, handle, missing)
        if not isinstance(one, KeyObject):
            raise Refused(missing)
        return one

    def live(self, session: PkcsSession, handle: int, missing: Ckr) -> Asking[PkcsObject]:
        """An object as it is now. Raises Refused: `missing` where it is gone or not to be seen here."""
        one = self._objects.get(handle)
        if one is None or self.hidden(one) or not session.token.holds(one.provider):
            raise Refused(missing)
        if one.private and not self.trusted(session):
            raise Refused(missing)
        if one.on_token:
            stamp = self.directory.stamp()
            if self._stamps[handle] != stamp:
                now = yield from self.directory.again(one, self.principal)
                if now is None:
                    self._forget(one)
                    raise Refused(missing)
                self._objects[handle] = one = now
                self._stamps[handle] = stamp
        return one

    def known_resource(self, one: KeyObject) -> CryptoResourceId | None:
        """What the service calls the key of an object, where that was asked before."""
        return one.origin.resource or self._resources.get(one.origin.slot)

    def resource(self, one: KeyObject) -> Asking[CryptoResourceId]:
        """What the service calls the key of an object."""
        if one.origin.resource is not None:
            return one.origin.resource
        known = self._resources.get(one.origin.slot)
        if known is None:
            reply = yield from ask(m.ResolveRequest(one.origin.slot), m.ResolveReply)
            known = self._resources[one.origin.slot] = reply.resource
        return known

    def renew(self, one: KeyObject, changes: Mapping[int, bytes]) -> None:
        """An ephemeral key, both halves, has other attributes from now on."""
        for handle, other in tuple(self._objects.items()):
            if other.origin == one.origin and isinstance(other, KeyObject):
                self._objects[handle] = replace(
                    other,
                    label=changes.get(Cka.LABEL, other.label),
                    id=changes.get(Cka.ID, other.id),
                    subject=changes.get(Cka.SUBJECT, other.subject),
                )

    def forget(self, origin: Origin) -> None:
        """The key of an origin is gone."""
        for handle, one in [(handle, one) for handle, one in self._objects.items() if one.origin == origin]:
            self._forget(one)
            if len(self._buried) < MAX_HANDLES:
                self._buried.add(handle)

    def bury(self, handle: int) -> bool:
        """Whether an object went with the other half of its key; it may be destroyed once more, by its own handle."""
        if handle not in self._buried:
            return False
        self._buried.discard(handle)
        return True

    def half_left(self, one: PkcsObject) -> bool:
        """Whether another object of the same key is still there."""
        return any(
            other.origin == one.origin and other.kind is not one.kind and not self.hidden(other)
            for other in self._objects.values()
        )

    def _forget(self, one: PkcsObject) -> None:
        self._hidden.discard((one.origin, one.kind))
        handle = self._handles.pop((one.origin, one.kind), None)
        if handle is not None:
            self._objects.pop(handle, None)
            self._stamps.pop(handle, None)


_COLLECTED: Final = 4
"""Times the most data of one call, what one application's operations may collect in parts."""
