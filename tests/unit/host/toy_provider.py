"""A provider that is quick and obedient, so that tests see the process around it and not the cryptography in it.

What it shall do is said in the names of its keys and algorithms; faults are injected nowhere else.
"""

import threading
from collections.abc import Sequence

from hsmbridge.core import calls
from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import ProviderError, SignatureInvalid, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.params import SignatureParameters
from hsmbridge.core.policy import Protection
from hsmbridge.core.secrets import Pin
from hsmbridge.providers.base import Provider
from hsmbridge.providers.registry import ProviderSpec

RIGHT_PIN = "1234"


class ToyProvider(Provider):
    """Signs by repeating the message. `gates` let a test hold a call up and see that it has begun."""

    def __init__(self) -> None:
        self.keys: dict[bytes, int] = {}
        self.events: list[str] = []
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.closed = False

    def describe(self) -> calls.Description:
        return calls.Description(
            "toy", calls.TokenIdentity("toy", "1"), ("EC-P256",), (), (), False, True, Protection.MEMORY
        )

    def generate(self, target: calls.KeyTarget) -> calls.MadeKey:
        if target.label == "slow":
            self.begun.set()
            self.gate.wait(30)
        self.events.append(f"made {target.key_id.hex()}")
        self.keys[target.key_id] = len(self.keys) + 1
        return calls.MadeKey(b"reference", b"", Protection.MEMORY)

    def load(self, key_id: bytes, row: KeyType, permissions: int, reference: bytes, binding: bytes) -> int:
        return self.keys[key_id]

    def unload(self, handle: int) -> None:
        return

    def destroy(self, key_id: bytes, row: KeyType, reference: bytes) -> None:
        self.events.append(f"destroyed {key_id.hex()}")
        self.keys.pop(key_id, None)

    def close(self) -> None:
        self.closed = True

    def list_keys(self) -> list[bytes]:
        return list(self.keys)

    def sign(self, handle: int, row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
        if message == b"token gone":
            raise ProviderError(Status.TOKEN_NOT_PRESENT, "The token is gone.", origin="toy: CKR_SECRET_DETAIL")
        if message == b"bug":
            raise ZeroDivisionError("an inner secret")
        if message == b"wait":
            self.begun.set()
            self.gate.wait(30)
        return message

    def verify(
        self, handle: int, row: Algorithm, message: bytes, signature: bytes, parameters: SignatureParameters
    ) -> None:
        if message != signature:
            raise SignatureInvalid(Status.SIGNATURE_INVALID)


def open_toy(spec: ProviderSpec, pin: Pin | None) -> Provider:
    """What a host does with `toy:WORD`."""
    word = spec.uri.partition(":")[2]
    if word == "pin":
        if pin is None or pin.reveal() != RIGHT_PIN:
            raise ProviderError(Status.PIN_INCORRECT, origin="toy: CKR_PIN_INCORRECT")
    elif word == "bug":
        raise ZeroDivisionError("an inner secret")
    elif word == "missing":
        raise ProviderError(Status.TOKEN_NOT_PRESENT)
    return ToyProvider()


__all__: Sequence[str] = ("RIGHT_PIN", "ToyProvider", "open_toy")
