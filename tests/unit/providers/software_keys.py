"""Keys in a software provider, for its tests."""

from collections.abc import Callable

import pytest

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import key_type
from hsmbridge.providers.software import SoftwareProvider

BINDING = b"slot, version, key type"


def target_for(name: str, *, ephemeral: bool = False) -> calls.KeyTarget:
    return calls.KeyTarget(new_key_id(), name, 0, BINDING, "", ephemeral)


def load(provider: SoftwareProvider, target: calls.KeyTarget, made: calls.MadeKey) -> int:
    return provider.load(target.key_id, key_type(target.key_type), 0, made.reference, target.binding)


def generate(provider: SoftwareProvider, name: str) -> int:
    target = target_for(name)
    return load(provider, target, provider.generate(target))


def bring(provider: SoftwareProvider, name: str, format_: str, material: bytes) -> int:
    target = target_for(name)
    return load(provider, target, provider.import_key(target, format_, material))


def status_of(act: Callable[[], object]) -> Status:
    with pytest.raises(HsmBridgeError) as failure:
        act()
    return failure.value.status
