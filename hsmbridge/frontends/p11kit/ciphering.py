"""C_Encrypt and C_Decrypt, at once and in parts, which are collected up to a limit; no plaintext before all is checked.

How much room a result takes is said without the service, as exactly as can be.
"""

from dataclasses import dataclass

from hsmbridge.core import messages as m
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends.asking import Answer, Asking, ask, nothing
from hsmbridge.frontends.p11kit.numbers import Ckr, MechanismFlag
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.state import Active, Application, PkcsSession
from hsmbridge.frontends.p11kit.under_way import Parts, cancelled, ended, key_of, require_use, same_version, under_way
from hsmbridge.frontends.p11kit.ways import CipherWay, cipher_way
from hsmbridge.wire.p11kit import Needed
from hsmbridge.wire.p11kit_mechanisms import Mechanism


@dataclass(slots=True, eq=False)
class Ciphering:
    """An encryption or a decryption under way; `held` is a result that the caller had no room for."""

    handle: int
    way: CipherWay
    parts: Parts
    held: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes collected, or held back."""
        return len(self.parts.data) + len(self.held or b"")


class Ciphers:
    """One method a function of PKCS#11."""

    def __init__(self, application: Application) -> None:
        """`application`: whose calls these are."""
        self._application = application

    def encrypt_init(self, handle: int, mechanism: Mechanism | None, key: int) -> Answer:
        """C_EncryptInit."""
        return (yield from self._cipher_init(Active.ENCRYPT, P.ENCRYPT, MechanismFlag.ENCRYPT, handle, mechanism, key))

    def decrypt_init(self, handle: int, mechanism: Mechanism | None, key: int) -> Answer:
        """C_DecryptInit."""
        return (yield from self._cipher_init(Active.DECRYPT, P.DECRYPT, MechanismFlag.DECRYPT, handle, mechanism, key))

    def _cipher_init(
        self,
        kind: Active,
        permission: P,
        flag: MechanismFlag,
        handle: int,
        mechanism: Mechanism | None,
        key: int,
    ) -> Answer:
        session = self._application.session(handle)
        if mechanism is None:
            return cancelled(session, kind)
        one = yield from key_of(self._application, session, kind, mechanism, flag, key)
        way = cipher_way(mechanism, one.row)
        require_use(one, permission, session, way.algorithm)
        session.begin(kind, Ciphering(key, way, Parts(self._application.settings.max_data)))
        return ()

    def encrypt(self, handle: int, data: bytes | None, room: int | None) -> Answer:
        """C_Encrypt."""
        return (yield from self._at_once(Active.ENCRYPT, handle, data or b"", room))

    def decrypt(self, handle: int, data: bytes | None, room: int | None) -> Answer:
        """C_Decrypt."""
        return (yield from self._at_once(Active.DECRYPT, handle, data or b"", room))

    def encrypt_update(self, handle: int, part: bytes | None, room: int | None) -> Answer:
        """C_EncryptUpdate: what comes out comes with the last part."""
        return (yield from self._collect(Active.ENCRYPT, handle, part or b"", room))

    def decrypt_update(self, handle: int, part: bytes | None, room: int | None) -> Answer:
        """C_DecryptUpdate: no plaintext before everything was checked."""
        return (yield from self._collect(Active.DECRYPT, handle, part or b"", room))

    def encrypt_final(self, handle: int, room: int | None) -> Answer:
        """C_EncryptFinal."""
        return (yield from self._finish(Active.ENCRYPT, handle, room))

    def decrypt_final(self, handle: int, room: int | None) -> Answer:
        """C_DecryptFinal."""
        return (yield from self._finish(Active.DECRYPT, handle, room))

    def _collect(self, kind: Active, handle: int, part: bytes, room: int | None) -> Answer:
        yield from nothing()
        session = self._application.session(handle)
        ciphering = under_way(session, kind, Ciphering)
        if room is None:
            return (Needed(0),)
        try:
            self._application.require_room(len(part))
            ciphering.parts.add(part)
        except Refused as refused:
            raise Refused(ended(session, kind, refused.ckr)) from None
        return (b"",)

    def _at_once(self, kind: Active, handle: int, data: bytes, room: int | None) -> Answer:
        session = self._application.session(handle)
        ciphering = under_way(session, kind, Ciphering)
        if ciphering.parts.begun:
            raise Refused(ended(session, kind, Ckr.OPERATION_ACTIVE))
        return (yield from self._result(kind, session, ciphering, data, room))

    def _finish(self, kind: Active, handle: int, room: int | None) -> Answer:
        session = self._application.session(handle)
        ciphering = under_way(session, kind, Ciphering)
        return (yield from self._result(kind, session, ciphering, bytes(ciphering.parts.data), room))

    def _result(
        self, kind: Active, session: PkcsSession, ciphering: Ciphering, data: bytes, room: int | None
    ) -> Answer:
        """The result, or how much room it takes: exactly for an encryption, at most for a decryption."""
        way = ciphering.way
        if kind is Active.ENCRYPT:
            size = way.encrypted_size(len(data))
            if room is None or room < size:
                return (Needed(size),)
        elif room is None:
            size = way.decrypted_size(len(data)) if ciphering.held is None else len(ciphering.held)
            return (Needed(size),)
        del session.operations[kind]
        result = ciphering.held
        if result is None:
            work = self._encrypted if kind is Active.ENCRYPT else self._decrypted
            result = yield from work(session, ciphering, data)
        if len(result) > room:
            ciphering.held = result
            session.operations.setdefault(kind, ciphering)
            return (Needed(len(result)),)
        return (result,)

    def _encrypted(self, session: PkcsSession, ciphering: Ciphering, data: bytes) -> Asking[bytes]:
        application = self._application
        one = yield from application.live_key(session, ciphering.handle, Ckr.KEY_HANDLE_INVALID)
        resource = yield from application.resource(one)
        way = ciphering.way
        request = m.EncryptRequest(resource, way.algorithm.name, data, way.aad, way.nonce)
        reply = yield from ask(request, m.EncryptReply)
        same_version(one, reply.version)
        return reply.ciphertext + reply.tag

    def _decrypted(self, session: PkcsSession, ciphering: Ciphering, data: bytes) -> Asking[bytes]:
        application = self._application
        one = yield from application.live_key(session, ciphering.handle, Ckr.KEY_HANDLE_INVALID)
        resource = yield from application.resource(one)
        way = ciphering.way
        end = len(data) - way.algorithm.tag_size
        if end < 0:
            raise Refused(Ckr.ENCRYPTED_DATA_LEN_RANGE)
        request = m.DecryptRequest(
            resource, way.algorithm.name, data[:end], way.aad, way.nonce, data[end:], one.origin.version
        )
        return (yield from ask(request, m.DecryptReply)).plaintext
