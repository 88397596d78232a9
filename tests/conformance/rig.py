"""A provider under test, with the keys that were made in it.

Every call and every reply passes through the wire's codec, as it does to a provider host: what is not bytes, numbers
and handles does not get through.
"""

import secrets
from dataclasses import dataclass
from typing import TypeVar

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.base import perform
from hsmbridge.wire import codec
from tests.conformance.backends import Backend
from tests.conformance.cells import performed
from tests.conformance.independent import keys
from tests.conformance.pinned import Case, Pinned

_FRAME_HEADER = 16
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Key:
    """What the store would remember of a key."""

    target: calls.KeyTarget
    type: KeyType
    made: calls.MadeKey


class Rig:
    """A backend with its provider open, and the keys that are slow to make."""

    def __init__(self, backend: Backend, pinned: Pinned) -> None:
        self.backend = backend
        self.pinned = pinned
        self.provider = backend.open()
        self.persistent: set[bytes] = set()
        self.performed: set[tuple[str, KeyOperation]] = set()
        self._keys: dict[tuple[str, P, int], Key] = {}
        self._known: dict[tuple[str, P], tuple[Key, bytes]] = {}

    def close(self) -> None:
        self.provider.close()
        self.backend.stop()

    def reopen(self) -> None:
        """As after a restart: handles are dead, ephemeral keys gone, persistent ones still there."""
        self.provider.close()
        self.provider = self.backend.open()

    def perform(self, call: calls.ProviderCall) -> calls.ProviderReply:
        """Do one call by way of the wire."""
        arrived = codec.decode_call(codec.encode_call(1, call)[_FRAME_HEADER:])
        reply = perform(self.provider, arrived)
        if (done := performed(call)) is not None:
            self.performed.add(done)
        return codec.decode_call_reply(type(call), codec.encode_call_reply(1, reply)[_FRAME_HEADER:])

    def ask(self, call: calls.ProviderCall, reply_type: type[_R]) -> _R:
        """Do one call whose reply is of a type."""
        reply = self.perform(call)
        assert isinstance(reply, reply_type)
        return reply

    # Keys

    def target(self, row: KeyType, permissions: P, *, ephemeral: bool = False, owner: bytes = b"") -> calls.KeyTarget:
        """A target as the store would choose one."""
        key_id = new_key_id()
        binding = b"conformance/" + row.name.encode() + b"/" + key_id.hex().encode()
        return calls.KeyTarget(key_id, row.name, permissions, binding, "tests/conformance", ephemeral, owner)

    def make(self, call: calls.ProviderCall, target: calls.KeyTarget, row: KeyType) -> Key:
        """The key that a key-making call answers."""
        key = Key(target, row, self.ask(call, calls.MadeKey))
        if not target.ephemeral:
            self.persistent.add(target.key_id)
        return key

    def generate(self, row: KeyType, permissions: P, *, ephemeral: bool = False, owner: bytes = b"") -> Key:
        target = self.target(row, permissions, ephemeral=ephemeral, owner=owner)
        return self.make(calls.GenerateCall(target), target, row)

    def bring(self, row: KeyType, permissions: P, format_: str, material: bytes, *, ephemeral: bool = False) -> Key:
        """Import a key."""
        target = self.target(row, permissions, ephemeral=ephemeral)
        return self.make(calls.ImportCall(target, format_, material), target, row)

    def key(self, case: Case, number: int = 0) -> Key:
        """A persistent key for a case, made once a session; another `number` is another key."""
        place = (case.key_type.name, case.permissions, number)
        if place not in self._keys:
            self._keys[place] = self._new_key(case, number)
        return self._keys[place]

    def _new_key(self, case: Case, number: int) -> Key:
        row = case.key_type
        if row.name in self.pinned.key_types:
            return self.generate(row, case.permissions)
        if row.symmetric:
            return self.bring(row, case.permissions, "raw", secrets.token_bytes(row.bytes))
        return self.bring(row, case.permissions, "pkcs8", keys.private_key(row, number))

    def known(self, case: Case) -> tuple[Key, bytes]:
        """A secret key for a case, with its value, imported once a session."""
        place = (case.key_type.name, case.permissions)
        if place not in self._known:
            value = secrets.token_bytes(case.key_type.bytes)
            self._known[place] = (self.bring(case.key_type, case.permissions, "raw", value), value)
        return self._known[place]

    def load(self, key: Key) -> int:
        """The handle; loading again costs little and gives the same."""
        target = key.target
        call = calls.LoadCall(target.key_id, key.type.name, target.permissions, key.made.reference, target.binding)
        return self.ask(call, int)

    def unload(self, handle: int) -> None:
        self.perform(calls.UnloadCall(handle))

    def destroy(self, key: Key) -> None:
        self.perform(calls.DestroyCall(key.target.key_id, key.type.name, key.made.reference))
        self.persistent.discard(key.target.key_id)

    # Use of keys, by the algorithm of a case

    def sign(self, case: Case, key: Key, message: bytes, parameters: SignatureParameters = DEFAULT_SIGNATURE) -> bytes:
        return self.ask(calls.SignCall(self.load(key), case.algorithm.name, message, parameters), bytes)

    def verify(
        self,
        case: Case,
        key: Key,
        message: bytes,
        signature: bytes,
        parameters: SignatureParameters = DEFAULT_SIGNATURE,
    ) -> None:
        self.perform(calls.VerifyCall(self.load(key), case.algorithm.name, message, signature, parameters))

    def encrypt(self, case: Case, key: Key, nonce: bytes, plaintext: bytes, aad: bytes = b"") -> calls.Encrypted:
        call = calls.EncryptCall(self.load(key), case.algorithm.name, nonce, plaintext, aad)
        return self.ask(call, calls.Encrypted)

    def decrypt(self, case: Case, key: Key, sealed: calls.Encrypted, aad: bytes = b"") -> bytes:
        name = case.algorithm.name
        call = calls.DecryptCall(self.load(key), name, sealed.nonce, sealed.ciphertext, aad, sealed.tag)
        return self.ask(call, bytes)
