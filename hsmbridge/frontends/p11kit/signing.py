"""C_Sign and C_Verify, at once and in parts. C_*Init is answered without the service.

What a key may be used for is looked at in C_*Init because PKCS#11 wants it known there; the service decides anew at
each use. Parts are hashed as they come where the mechanism hashes, and collected up to a limit otherwise.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmbridge.core import messages as m
from hsmbridge.core.params import SignatureParameters
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends.asking import Answer, Asking, ask, nothing
from hsmbridge.frontends.p11kit.numbers import Ckr, MechanismFlag
from hsmbridge.frontends.p11kit.objects import KeyObject
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.state import Active, Application, PkcsSession
from hsmbridge.frontends.p11kit.tokens import Token
from hsmbridge.frontends.p11kit.under_way import Parts, cancelled, ended, key_of, require_use, same_version, under_way
from hsmbridge.frontends.p11kit.ways import SignatureWay, new_hash, signature_way
from hsmbridge.wire.p11kit import Needed
from hsmbridge.wire.p11kit_mechanisms import Mechanism

if TYPE_CHECKING:
    import hashlib

_SIGNING: Final = Active.SIGN
_SIGN: Final = int(MechanismFlag.SIGN)
_VERIFY: Final = int(MechanismFlag.VERIFY)


@dataclass(slots=True, eq=False)
class Signing:
    """A signature or a verification under way."""

    handle: int
    mechanism: Mechanism
    way: SignatureWay
    parts: Parts
    hashing: "hashlib._Hash | None" = None

    @property
    def size(self) -> int:
        """Bytes collected."""
        return len(self.parts.data)


class Signatures:
    """One method a function of PKCS#11."""

    def __init__(self, application: Application) -> None:
        """`application`: whose calls these are."""
        self._application = application
        self._found: tuple[KeyObject, Active, Mechanism, Token, SignatureWay] | None = None

    def sign_init(self, handle: int, mechanism: Mechanism | None, key: int) -> Answer:
        """C_SignInit."""
        return (yield from self._signature_init(Active.SIGN, P.SIGN, _SIGN, handle, mechanism, key))

    def sign_init_at_once(self, handle: int, mechanism: Mechanism | None, key: int) -> tuple[()] | None:
        """C_SignInit with the key and the mechanism of the last one; None where `sign_init` has to look at more."""
        found = self._found
        if found is None:
            return None
        one, kind, known, token, way = found
        session = self._application.session(handle)
        if (
            mechanism != known
            or kind is not _SIGNING
            or session.token is not token
            or _SIGNING in session.operations
            or self._application.key_at_once(session, key) is not one
        ):
            return None
        session.operations[_SIGNING] = Signing(key, known, way, Parts(self._application.settings.max_data))
        return ()

    def verify_init(self, handle: int, mechanism: Mechanism | None, key: int) -> Answer:
        """C_VerifyInit."""
        return (yield from self._signature_init(Active.VERIFY, P.VERIFY, _VERIFY, handle, mechanism, key))

    def _signature_init(
        self,
        kind: Active,
        permission: P,
        flag: int,
        handle: int,
        mechanism: Mechanism | None,
        key: int,
    ) -> Answer:
        session = self._application.session(handle)
        if mechanism is None:
            return cancelled(session, kind)
        one = yield from key_of(self._application, session, kind, mechanism, flag, key)
        # What was found for this key as it is needs not be found again; a key that has changed is another object.
        found = self._found
        way = None
        if found is not None and found[0] is one and found[1:4] == (kind, mechanism, session.token):
            way = found[4]
        if way is None:
            way = signature_way(mechanism, one.row)
            require_use(one, permission, session, *way.candidates)
            self._found = (one, kind, mechanism, session.token, way)
        session.begin(kind, Signing(key, mechanism, way, Parts(self._application.settings.max_data)))
        return ()

    def sign(self, handle: int, data: bytes | None, room: int | None) -> Answer:
        """C_Sign."""
        session = self._application.session(handle)
        signing = under_way(session, _SIGNING, Signing)
        if signing.parts.begun:
            raise Refused(ended(session, _SIGNING, Ckr.OPERATION_ACTIVE))
        if room is None or room < signing.way.size:
            return (Needed(signing.way.size),)
        del session.operations[_SIGNING]
        return ((yield from self._signature(session, signing, data or b"")),)

    def sign_update(self, handle: int, part: bytes | None) -> Answer:
        """C_SignUpdate."""
        yield from nothing()
        self._feed(self._application.session(handle), Active.SIGN, part or b"")
        return ()

    def sign_final(self, handle: int, room: int | None) -> Answer:
        """C_SignFinal."""
        session = self._application.session(handle)
        signing = under_way(session, Active.SIGN, Signing)
        if room is None or room < signing.way.size:
            return (Needed(signing.way.size),)
        del session.operations[Active.SIGN]
        return ((yield from self._signature(session, signing, None)),)

    def verify(self, handle: int, data: bytes | None, signature: bytes | None) -> Answer:
        """C_Verify."""
        session = self._application.session(handle)
        signing = under_way(session, Active.VERIFY, Signing)
        del session.operations[Active.VERIFY]
        if signing.parts.begun:
            raise Refused(Ckr.OPERATION_ACTIVE)
        yield from self._verification(session, signing, data or b"", signature or b"")
        return ()

    def verify_update(self, handle: int, part: bytes | None) -> Answer:
        """C_VerifyUpdate."""
        yield from nothing()
        self._feed(self._application.session(handle), Active.VERIFY, part or b"")
        return ()

    def verify_final(self, handle: int, signature: bytes | None) -> Answer:
        """C_VerifyFinal."""
        session = self._application.session(handle)
        signing = under_way(session, Active.VERIFY, Signing)
        del session.operations[Active.VERIFY]
        yield from self._verification(session, signing, None, signature or b"")
        return ()

    def _feed(self, session: PkcsSession, kind: Active, part: bytes) -> None:
        signing = under_way(session, kind, Signing)
        try:
            if not signing.way.hash:
                self._application.require_room(len(part))
                signing.parts.add(part)
                return
            if signing.hashing is None:
                signing.hashing = new_hash(signing.way.hash)
                signing.parts.begun = True
            signing.hashing.update(part)
        except Refused as refused:
            raise Refused(ended(session, kind, refused.ckr)) from None

    def _signature(self, session: PkcsSession, signing: Signing, data: bytes | None) -> Asking[bytes]:
        application = self._application
        one = application.key_at_once(session, signing.handle)
        if one is None:
            one = yield from application.live_key(session, signing.handle, Ckr.KEY_HANDLE_INVALID)
        way, message, parameters = _message(signing, one, data, P.SIGN)
        resource = application.known_resource(one) or (yield from application.resource(one))
        if way.is_mac:
            mac = yield from ask(m.MacRequest(resource, way.algorithm.name, message), m.MacReply)
            same_version(one, mac.version)
            return mac.mac
        reply = yield from ask(m.SignRequest(resource, way.algorithm.name, message, parameters), m.SignReply)
        same_version(one, reply.version)
        return way.outward(reply.signature)

    def _verification(
        self, session: PkcsSession, signing: Signing, data: bytes | None, signature: bytes
    ) -> Asking[None]:
        application = self._application
        one = yield from application.live_key(session, signing.handle, Ckr.KEY_HANDLE_INVALID)
        way, message, parameters = _message(signing, one, data, P.VERIFY)
        inward = way.inward(signature)
        resource = yield from application.resource(one)
        version = one.origin.version
        if way.is_mac:
            mac = m.MacVerifyRequest(resource, way.algorithm.name, message, inward, version)
            yield from ask(mac, m.VerifyReply)
        else:
            request = m.VerifyRequest(resource, way.algorithm.name, message, inward, parameters, version)
            yield from ask(request, m.VerifyReply)


def _message(
    signing: Signing, one: KeyObject, data: bytes | None, permission: P
) -> tuple[SignatureWay, bytes, SignatureParameters]:
    """What is to be signed: all the data of a one-shot call, or with None what came in parts. Raises Refused."""
    way = signing.way
    if data is None:
        if signing.hashing is not None:
            return way, *way.digest(signing.hashing.digest())
        data = bytes(signing.parts.data)
    if way.form == "info":
        way = signature_way(signing.mechanism, one.row, data)
        if not one.serves(way.algorithm, permission):
            raise Refused(Ckr.DATA_INVALID)
    return way, *way.message(data)
