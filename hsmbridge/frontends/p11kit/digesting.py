"""C_Digest, at once and in parts, without a key and without the service; and the end of operations by wish."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsmbridge.frontends.asking import Answer, nothing
from hsmbridge.frontends.p11kit.numbers import HASH_OF, Ckr, MechanismFlag
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.state import Active, Application
from hsmbridge.frontends.p11kit.under_way import cancelled, ended, under_way
from hsmbridge.frontends.p11kit.ways import new_hash
from hsmbridge.wire.p11kit import Needed
from hsmbridge.wire.p11kit_mechanisms import Mechanism

if TYPE_CHECKING:
    import hashlib


@dataclass(slots=True, eq=False)
class Digesting:
    """A digest under way."""

    hashing: "hashlib._Hash"
    begun: bool = False

    @property
    def size(self) -> int:
        """Nothing is collected."""
        return 0


class Digests:
    """One method a function of PKCS#11."""

    def __init__(self, application: Application) -> None:
        """`application`: whose calls these are."""
        self._application = application

    def digest_init(self, handle: int, mechanism: Mechanism | None) -> Answer:
        """C_DigestInit."""
        yield from nothing()
        session = self._application.session(handle)
        if mechanism is None:
            return cancelled(session, Active.DIGEST)
        name = HASH_OF.get(mechanism.type)
        if name is None:
            raise Refused(Ckr.MECHANISM_INVALID)
        session.begin(Active.DIGEST, Digesting(new_hash(name)))
        return ()

    def digest(self, handle: int, data: bytes | None, room: int | None) -> Answer:
        """C_Digest."""
        yield from nothing()
        session = self._application.session(handle)
        digesting = under_way(session, Active.DIGEST, Digesting)
        if digesting.begun:
            raise Refused(ended(session, Active.DIGEST, Ckr.OPERATION_ACTIVE))
        size = digesting.hashing.digest_size
        if room is None or room < size:
            return (Needed(size),)
        del session.operations[Active.DIGEST]
        digesting.hashing.update(data or b"")
        return (digesting.hashing.digest(),)

    def digest_update(self, handle: int, part: bytes | None) -> Answer:
        """C_DigestUpdate."""
        yield from nothing()
        digesting = under_way(self._application.session(handle), Active.DIGEST, Digesting)
        digesting.begun = True
        digesting.hashing.update(part or b"")
        return ()

    def digest_final(self, handle: int, room: int | None) -> Answer:
        """C_DigestFinal."""
        yield from nothing()
        session = self._application.session(handle)
        digesting = under_way(session, Active.DIGEST, Digesting)
        size = digesting.hashing.digest_size
        if room is None or room < size:
            return (Needed(size),)
        del session.operations[Active.DIGEST]
        return (digesting.hashing.digest(),)

    def session_cancel(self, handle: int, flags: int) -> Answer:
        """C_SessionCancel: the flags are those of mechanisms; CKF_FIND_OBJECTS is 0x40."""
        yield from nothing()
        session = self._application.session(handle)
        for kind, flag in _CANCELLED.items():
            if flags & flag:
                session.operations.pop(kind, None)
        return ()


_CANCELLED = {
    Active.FIND: 0x40,
    Active.SIGN: MechanismFlag.SIGN,
    Active.VERIFY: MechanismFlag.VERIFY,
    Active.ENCRYPT: MechanismFlag.ENCRYPT,
    Active.DECRYPT: MechanismFlag.DECRYPT,
    Active.DIGEST: MechanismFlag.DIGEST,
}
