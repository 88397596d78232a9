"""The provider contract over liboqs; how keys are kept is in `hsmbridge.providers.sealed_keys`."""

from collections.abc import Sequence

from hsmbridge.core import calls
from hsmbridge.core.algorithms import Algorithm
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.key_types import KeyType, key_type
from hsmbridge.core.params import SignatureParameters
from hsmbridge.core.policy import Protection
from hsmbridge.core.protocols import MaterialSeal
from hsmbridge.providers.oqs import mechanisms
from hsmbridge.providers.oqs.importing import from_clear
from hsmbridge.providers.oqs.library import Library
from hsmbridge.providers.oqs.material import OqsKey, from_stored
from hsmbridge.providers.oqs.probe import probe
from hsmbridge.providers.oqs.verification import MlDsaVerifiedByCryptography
from hsmbridge.providers.sealed_keys import SealedKeysProvider
from hsmbridge.providers.software.bound_key import BoundKey, mismatch


class OqsProvider(SealedKeysProvider[OqsKey, BoundKey]):
    """Keys of liboqs. Calls may come from any number of threads: liboqs works without the GIL, each call by itself."""

    def __init__(self, seal: MaterialSeal, library: Library) -> None:
        super().__init__(seal)
        self._library = library
        self._abilities = probe(library)

    def describe(self) -> calls.Description:
        library, found = self._library, self._abilities
        notes = [
            "Keys in use are in the memory of the daemon.",
            f"liboqs {library.version} is used through liboqs-python {library.package_version}.",
            "The makers of liboqs recommend it for research and prototypes, not for production.",
        ]
        if found.failed:
            notes.append(f"This liboqs names {', '.join(found.failed)}, and what it does by that name does not work.")
        if found.misverified:
            notes.append(
                f"This liboqs does not verify {', '.join(found.misverified)} as FIPS 204 says: it accepts invalid"
                " signatures or refuses valid ones. It still signs; the cryptography library verifies instead."
            )
        names = tuple(claim.algorithm for claim in found.claims)
        return calls.Description(
            scheme="oqs",
            token=calls.TokenIdentity(
                label="liboqs",
                serial="",
                manufacturer="Open Quantum Safe",
                model=f"liboqs {library.version}",
                firmware=library.version,
            ),
            key_types=names,
            imports=names,
            claims=found.claims,
            random=True,
            lists=False,
            protection=Protection.FILE,
            notes=tuple(notes),
        )

    # Keys

    def generate(self, target: calls.KeyTarget) -> calls.MadeKey:
        return self._keep(target, mechanisms.generate(self._library, self._key_type(target)))

    def import_key(self, target: calls.KeyTarget, format_: str, material: bytes) -> calls.MadeKey:
        return self._keep(target, from_clear(self._library, self._key_type(target), format_, material))

    def _from_stored(self, row: KeyType, stored: bytes) -> OqsKey:
        self._check_offered(row.name)
        return from_stored(row, stored)

    # Use of keys

    def sign(self, handle: int, row: Algorithm, message: bytes, parameters: SignatureParameters) -> bytes:
        return self._bound(handle, row).sign(message, parameters)

    def sign_many(
        self, handle: int, row: Algorithm, messages: Sequence[bytes], parameters: SignatureParameters
    ) -> list[bytes]:
        sign = self._bound(handle, row).sign
        return [sign(message, parameters) for message in messages]

    def verify(
        self, handle: int, row: Algorithm, message: bytes, signature: bytes, parameters: SignatureParameters
    ) -> None:
        self._bound(handle, row).verify(message, signature, parameters)

    def encapsulate(self, handle: int, row: Algorithm) -> calls.Encapsulated:
        return self._bound(handle, row).encapsulate()

    def decapsulate(self, handle: int, row: Algorithm, ciphertext: bytes) -> bytes:
        return self._bound(handle, row).decapsulate(ciphertext)

    def random(self, length: int) -> bytes:
        if length < 0:
            raise RequestError(Status.INVALID_ARGUMENT, "A number of random bytes is not negative.")
        return self._library.random(length)

    # Inside

    def _key_type(self, target: calls.KeyTarget) -> KeyType:
        row = key_type(target.key_type)
        self._check_offered(row.name)
        return row

    def _check_offered(self, name: str) -> None:
        if name not in self._abilities.names:
            raise _not_supported(name)

    def _bound(self, handle: int, row: Algorithm) -> BoundKey:
        key = self._loaded(handle)
        bound = key.bound.get(row.name)
        if bound is None:
            self._check_offered(row.name)
            if not row.takes(key.row):
                raise mismatch(row)
            verified_elsewhere = row.name in self._abilities.misverified
            scheme = MlDsaVerifiedByCryptography if verified_elsewhere else mechanisms.SCHEMES[row.scheme]
            bound = key.bound[row.name] = scheme(self._library, key.material, row)
        return bound


def _not_supported(name: str) -> HsmBridgeError:
    return RequestError(Status.NOT_SUPPORTED, f"The liboqs here does not offer {name}.")
