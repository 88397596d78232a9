"""The life of keys in the software provider as a state machine, against a model of what must be there."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from hsmbridge.core import calls
from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.providers.software import SoftwareProvider
from tests.conformance.backends import AesGcmSeal

TYPE = key_type("HMAC-SHA256")
ROW = algorithm("HMAC-SHA256")


@dataclass(eq=False)
class _Key:
    """What the store would know, and what the model knows: the MAC that the key gives."""

    target: calls.KeyTarget
    made: calls.MadeKey
    mac: bytes = b""
    gone: bool = False


class KeyLife(RuleBasedStateMachine):
    """Keys are made, loaded, used, unloaded, destroyed, and the provider is started anew, in any order."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.seal = AesGcmSeal(AESGCM.generate_key(128))
        self.provider = SoftwareProvider(self.seal)
        self.made: list[_Key] = []
        self.live: dict[int, _Key] = {}
        self.dead: set[int] = set()

    @rule(target=keys, ephemeral=st.booleans())
    def generate(self, *, ephemeral: bool) -> _Key:
        target = calls.KeyTarget(new_key_id(), TYPE.name, 0, b"binding", "", ephemeral)
        key = _Key(target, self.provider.generate(target))
        key.mac = self._sign(self._load(key))
        self.made.append(key)
        return key

    @rule(key=keys)
    def load(self, key: _Key) -> None:
        if key.gone:
            assert _status(lambda: self._load(key)) is Status.KEY_MATERIAL_MISSING
        else:
            assert self._load(key) == self._load(key)

    @rule(key=keys)
    def unload(self, key: _Key) -> None:
        if not key.gone:
            handle = self._load(key)
            self.provider.unload(handle)
            self.live.pop(handle)
            self.dead.add(handle)

    @rule(key=consumes(keys))
    def destroy(self, key: _Key) -> None:
        for _ in range(2):
            self.provider.destroy(key.target.key_id, TYPE, key.made.reference)
        for handle in [handle for handle, owner in self.live.items() if owner is key]:
            del self.live[handle]
            self.dead.add(handle)
        if key.target.ephemeral:
            assert _status(lambda: self._load(key)) is Status.KEY_MATERIAL_MISSING

    @rule()
    def restart(self) -> None:
        self.provider.close()
        self.provider = SoftwareProvider(self.seal)
        for key in self.made:
            key.gone = key.target.ephemeral
        self.dead.update(self.live)
        self.live.clear()

    @invariant()
    def a_live_handle_is_its_key_and_a_dead_one_nothing(self) -> None:
        for handle, key in self.live.items():
            assert self._sign(handle) == key.mac
        for handle in self.dead:
            assert _status(partial(self._sign, handle)) is Status.HANDLE_UNKNOWN

    def _load(self, key: _Key) -> int:
        target = key.target
        handle = self.provider.load(target.key_id, TYPE, 0, key.made.reference, target.binding)
        assert handle not in self.dead
        assert self.live.setdefault(handle, key) is key
        return handle

    def _sign(self, handle: int) -> bytes:
        return self.provider.sign(handle, ROW, b"message", DEFAULT_SIGNATURE)


def _status(act: Callable[[], object]) -> Status:
    try:
        act()
    except HsmBridgeError as error:
        return error.status
    return Status.OK


KeyLife.TestCase.settings = settings(stateful_step_count=20)
TestKeyLife = KeyLife.TestCase
