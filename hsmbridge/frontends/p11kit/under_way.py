"""What operations in several calls share: collected parts, beginning, and ending by a failure or by a wish."""

from dataclasses import dataclass, field
from typing import TypeVar

from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends.asking import Asking
from hsmbridge.frontends.p11kit.numbers import Ckr
from hsmbridge.frontends.p11kit.objects import PERMISSIONS, KeyObject
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.state import Active, Application, Operation, PkcsSession
from hsmbridge.wire.p11kit_mechanisms import Mechanism

_Kind = TypeVar("_Kind", bound=Operation)


@dataclass(slots=True, eq=False)
class Parts:
    """What came in parts so far, within a limit."""

    most: int
    data: bytearray = field(default_factory=bytearray)
    begun: bool = False

    def add(self, part: bytes) -> None:
        """Raises Refused (CKR_DATA_LEN_RANGE) past the limit."""
        self.begun = True
        if len(self.data) + len(part) > self.most:
            raise Refused(Ckr.DATA_LEN_RANGE)
        self.data += part


def key_of(
    application: Application, session: PkcsSession, kind: Active, mechanism: Mechanism, flag: int, key: int
) -> Asking[KeyObject]:
    """The key of a new operation; that its token has the mechanism is known without asking it."""
    if kind in session.operations:
        raise Refused(Ckr.OPERATION_ACTIVE)
    one = application.key_at_once(session, key)
    if one is None:
        one = yield from application.live_key(session, key, Ckr.KEY_HANDLE_INVALID)
    info = session.token.mechanisms.get(mechanism.type)
    if info is None or not info.flags & flag:
        raise Refused(Ckr.MECHANISM_INVALID)
    return one


def cancelled(session: PkcsSession, kind: Active) -> tuple[()]:
    """An operation ends by the application's wish (a NULL mechanism)."""
    session.operations.pop(kind, None)
    return ()


def ended(session: PkcsSession, kind: Active, ckr: Ckr) -> Ckr:
    """An operation ends by a failure, which is answered."""
    session.operations.pop(kind, None)
    return ckr


def under_way(session: PkcsSession, kind: Active, type_: type[_Kind]) -> _Kind:
    """The operation of a kind. Raises Refused (CKR_OPERATION_NOT_INITIALIZED)."""
    operation = session.operations.get(kind)
    if not isinstance(operation, type_):
        raise Refused(Ckr.OPERATION_NOT_INITIALIZED)
    return operation


def require_use(one: KeyObject, permission: P, session: PkcsSession, *rows: Algorithm) -> None:
    """Raises Refused where a key may not do it, or it or its token does not have any of the algorithms."""
    offered = [row for row in rows if row.name in session.token.algorithms]
    if not offered:
        # The mechanism is there, but not with this hash.
        raise Refused(Ckr.MECHANISM_PARAM_INVALID)
    if permission not in PERMISSIONS[one.kind].values():
        raise Refused(Ckr.KEY_FUNCTION_NOT_PERMITTED)
    require_permitted(one, permission, *offered)


def require_permitted(one: KeyObject, permission: P, *rows: Algorithm) -> None:
    """Raises Refused where a key may not do it at all, or not by any of the algorithms."""
    if permission not in one.permissions:
        raise Refused(Ckr.KEY_FUNCTION_NOT_PERMITTED)
    if not any(one.serves(row, permission) for row in rows):
        raise Refused(Ckr.MECHANISM_INVALID)


def same_version(one: KeyObject, version: int) -> None:
    """A slot that was rotated meanwhile has used another key than the one that the handle stands for."""
    if one.on_token and version != one.origin.version:
        raise Refused(Ckr.KEY_HANDLE_INVALID)
