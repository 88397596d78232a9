"""What a program does that uses liboqs by itself, through liboqs-python: one object with its key, used many times."""

from pathlib import Path

from benchmarks.workload import NoDirectCall, Operation, payload
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Scheme
from hsmbridge.core.key_types import KeyType
from hsmbridge.providers.oqs import load_library


class Liboqs:
    """Keys of the liboqs in a folder."""

    def __init__(self, prefix: Path) -> None:
        """Raises HsmBridgeError where there is none."""
        self._library = load_library(str(prefix))

    def operation(self, row: Algorithm, key_type: KeyType | None, operation: KeyOperation) -> Operation:
        if row.scheme is Scheme.ML_DSA:
            return self._signature(row, operation)
        if row.scheme is Scheme.ML_KEM:
            return self._kem(row, operation)
        raise NoDirectCall(f"liboqs has no {row.scheme}")

    def _signature(self, row: Algorithm, operation: KeyOperation) -> Operation:
        signer, message = self._library.signer(row.name), payload(row)
        public = signer.generate_keypair()
        if operation is KeyOperation.SIGN:
            return lambda: signer.sign(message)
        signature = signer.sign(message)
        return lambda: signer.verify(message, signature, public)

    def _kem(self, row: Algorithm, operation: KeyOperation) -> Operation:
        kem = self._library.kem(row.name)
        public = kem.generate_keypair()
        if operation is KeyOperation.ENCAPSULATE:
            return lambda: kem.encap_secret(public)
        ciphertext, _ = kem.encap_secret(public)
        return lambda: kem.decap_secret(ciphertext)
