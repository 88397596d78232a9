"""Which test proves which cell of the table of providers, algorithms and operations, and whether it really did.

A cell is proved by a test that performs the operation and compares with something else: another implementation, or
where only the provider can know (a secret key that cannot be imported), the inverse operation. A test that stands here
and did not perform what it stands for fails (`rig` in conftest.py); a pinned cell for which none stands here fails
test_cells.py.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from hsmbridge.core import calls
from hsmbridge.core.algorithms import KeyOperation
from tests.conformance.pinned import PINNED, Case, Pinned

Cell = tuple[str, str, KeyOperation]
"""Provider, algorithm, operation."""


def _anywhere(_pinned: Pinned) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Proof:
    """The operations that a test performs, on providers of which `where` holds."""

    operations: tuple[KeyOperation, ...]
    where: Callable[[Pinned], bool] = _anywhere


_SIGN, _VERIFY = KeyOperation.SIGN, KeyOperation.VERIFY
_ENCRYPT, _DECRYPT = KeyOperation.ENCRYPT, KeyOperation.DECRYPT

PROOFS: Mapping[str, Proof] = {
    # Signatures and MACs
    "test_another_implementation_accepts_its_signature": Proof((_SIGN,)),
    "test_it_accepts_its_own_signature": Proof((_VERIFY,)),
    "test_another_implementation_computes_the_same_mac": Proof((_SIGN,)),
    "test_it_accepts_its_own_mac_and_no_other": Proof((_SIGN, _VERIFY)),
    # Encryption
    "test_it_decrypts_what_it_encrypted": Proof((_ENCRYPT, _DECRYPT)),
    "test_another_implementation_encrypts_to_the_same": Proof((_ENCRYPT, _DECRYPT)),
    "test_it_decrypts_its_own_public_key_encryption": Proof((_ENCRYPT, _DECRYPT)),
    "test_it_decrypts_what_openssl_encrypted": Proof((_DECRYPT,)),
    "test_it_decrypts_what_openssl_encrypted_with_pkcs1_v1_5": Proof((_DECRYPT,)),
    # Wrapping
    "test_a_wrapped_key_comes_back_as_it_was": Proof((KeyOperation.WRAP, KeyOperation.UNWRAP)),
    "test_another_implementation_unwraps_to_the_same_value": Proof((KeyOperation.WRAP,)),
    "test_it_unwraps_what_another_implementation_wrapped": Proof((KeyOperation.UNWRAP,)),
    # Secrets
    "test_an_agreed_secret_is_the_one_that_openssl_agrees_or_is_not_told": Proof(
        (KeyOperation.AGREE,), where=lambda pinned: pinned.agrees_secrets
    ),
    "test_a_key_agreed_through_hkdf_is_the_one_that_openssl_derives": Proof(
        (KeyOperation.AGREE,), where=lambda pinned: bool(pinned.agrees_keys_with_kdf)
    ),
    "test_it_decapsulates_what_another_implementation_encapsulated": Proof((KeyOperation.DECAPSULATE,)),
    "test_another_implementation_decapsulates_what_it_encapsulated": Proof((KeyOperation.ENCAPSULATE,)),
    "test_it_decapsulates_its_own_and_every_encapsulation_is_fresh": Proof(
        (KeyOperation.ENCAPSULATE, KeyOperation.DECAPSULATE)
    ),
    "test_a_derived_key_is_the_one_that_another_implementation_derives": Proof((KeyOperation.DERIVE,)),
    # No key
    "test_hashlib_computes_the_same_digest": Proof((KeyOperation.DIGEST,)),
}
"""By the name of the test."""

_OPERATIONS: Mapping[type[calls.ProviderCall], KeyOperation] = {
    calls.SignCall: _SIGN,
    calls.VerifyCall: _VERIFY,
    calls.EncryptCall: _ENCRYPT,
    calls.DecryptCall: _DECRYPT,
    calls.WrapCall: KeyOperation.WRAP,
    calls.UnwrapCall: KeyOperation.UNWRAP,
    calls.EncapsulateCall: KeyOperation.ENCAPSULATE,
    calls.DecapsulateCall: KeyOperation.DECAPSULATE,
    calls.AgreeSecretCall: KeyOperation.AGREE,
    calls.AgreeKeyCall: KeyOperation.AGREE,
    calls.DeriveKeyCall: KeyOperation.DERIVE,
    calls.DigestCall: KeyOperation.DIGEST,
}


def performed(call: calls.ProviderCall) -> tuple[str, KeyOperation] | None:
    """The algorithm and the operation of a call that uses a key or computes a digest."""
    operation = _OPERATIONS.get(type(call))
    if operation is None:
        return None
    name = call.kdf.algorithm if isinstance(call, calls.DeriveKeyCall) else getattr(call, "algorithm", "")
    return name, operation


def pinned_cells() -> Iterator[Cell]:
    """Every cell of pinned_rows.toml."""
    for pinned in PINNED.values():
        for name, operations in pinned.operations.items():
            for operation in operations:
                yield pinned.backend, name, operation


def proved_cells(module: ModuleType) -> Iterator[Cell]:
    """The cells that the tests of a module prove, by the cases that they are run on."""
    for test, proof in PROOFS.items():
        for backend, name in _run_on(getattr(module, test, None)):
            if proof.where(PINNED[backend]):
                for operation in proof.operations:
                    yield backend, name, operation


def _run_on(test: object) -> Iterator[tuple[str, str]]:
    """Backend and algorithm of each set of arguments of a test."""
    for mark in getattr(test, "pytestmark", ()):
        if mark.name != "parametrize":
            continue
        names, values = mark.args
        if names == "case":
            yield from ((case.backend, case.algorithm.name) for case in values if isinstance(case, Case))
        elif names == ("backend", "name"):
            yield from values
