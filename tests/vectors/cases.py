"""Test cases as the runner sees them: what the service is asked, with which key, and what it must answer.

One class an operation, whatever file a case came from. A case asks through the public client and gives back bytes, or
the client's exception; what is right is decided in one place, `judge`. No case knows a file format or a provider.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import ClassVar

from cryptography.hazmat.primitives import hashes, hmac

from hsmbridge.client import (
    AgreeKeyParams,
    CryptoResourceGuard,
    CryptoStack,
    DeriveKeyParams,
    ImportKeyParams,
    KdfParameters,
    KeyOperationPermission,
    SignatureParameters,
    UnwrapKeyParams,
    WrapKeyParams,
)
from hsmbridge.core.algorithms import KeyOperation
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.key_types import KEY_TYPES, Family

P = KeyOperationPermission

_PROBE = b"whoever computes this MAC holds the key"
"""A derived key cannot be read; two that give the same HMAC over this are the same."""
_PROBE_ALGORITHM = "HMAC-SHA256"

SECRET_TYPES = {row.bytes: row.name for row in KEY_TYPES.values() if row.family is Family.SECRET}
"""Types of secrets by their size in bytes."""


class Verdict(StrEnum):
    """What a published test says of itself, in Wycheproof's words. An acceptable one may be refused or taken."""

    VALID = "valid"
    INVALID = "invalid"
    ACCEPTABLE = "acceptable"

    @classmethod
    def of(cls, passes: bool) -> "Verdict":
        return cls.VALID if passes else cls.INVALID


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A published test that cannot be asked of the service, and why; the run counts these."""

    reason: str


@dataclass(frozen=True, slots=True)
class Key:
    """A key to be imported. `format` is "raw", "pkcs8" or "spki"; `seed` says of one in PKCS#8 that it is its seed."""

    key_type: str
    format: str
    material: bytes
    permissions: P
    seed: bool = False

    @property
    def form(self) -> str:
        """What quirks.toml calls it: the format, or "seed"."""
        return "seed" if self.seed else self.format


class Token(Enum):
    """The result of a case that yields nothing to compare."""

    DONE = "done"


Outcome = bytes | Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(ABC):
    """One published test.

    Attributes:
        test: its number or name in the file.
        verdict: what must come of it.
        keys: equivalent forms of its key, the nearest to the file first; empty for digests.
        algorithm: the row it is about; "" where the key's type says it all.
        expected: what the service must answer; DONE where there is nothing to compare.
    """

    operation: ClassVar[KeyOperation]
    refusals: ClassVar[frozenset[Status]]
    in_slot: ClassVar[bool] = False
    rejects_implicitly: ClassVar[bool] = False

    test: str
    verdict: Verdict
    keys: tuple[Key, ...]
    algorithm: str
    expected: Outcome = Token.DONE

    @property
    def makes(self) -> str:
        """The type of the key that the case has made from its own, or "" where it makes none."""
        return ""

    @property
    def wraps(self) -> str:
        """The type of the key that is wrapped or unwrapped, or "" where none is."""
        return ""

    @abstractmethod
    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        """Ask the service. Raises HsmBridgeError."""


def judge(case: Case, answer: Outcome | HsmBridgeError) -> str:
    """What is wrong with the answer to a case, or ""."""
    if isinstance(answer, HsmBridgeError):
        if case.verdict is Verdict.VALID:
            return f"valid, and refused: {answer.status.name}: {answer.message}"
        if answer.status not in case.refusals:
            return f"{case.verdict}, and refused for the wrong reason: {answer.status.name}: {answer.message}"
        return ""
    if case.verdict is Verdict.INVALID:
        return "" if case.rejects_implicitly and answer != case.expected else "invalid, and accepted"
    return "" if answer == case.expected else "accepted, with another result"


_ARGUMENT = Status.INVALID_ARGUMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCase(Case):
    """A signature."""

    operation = KeyOperation.VERIFY
    refusals = frozenset({Status.SIGNATURE_INVALID, _ARGUMENT})

    message: bytes
    signature: bytes
    context: bytes = b""
    salt_length: int | None = None
    external_mu: bool = False

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        parameters = SignatureParameters(
            context=self.context, salt_length=self.salt_length, external_mu=self.external_mu
        )
        stack.verify(key, self.algorithm, self.message, self.signature, parameters=parameters)
        return Token.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class SignCase(Case):
    """A signature of a scheme in which message and key decide it."""

    operation = KeyOperation.SIGN
    refusals = frozenset({_ARGUMENT})

    message: bytes

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        return bytes(stack.sign(key, self.algorithm, self.message))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignByNameCase(SignCase):
    """A signature by an algorithm that a slot must allow by name."""

    in_slot = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MacCase(Case):
    """A MAC: verified, and computed as well where it is a valid one."""

    operation = KeyOperation.VERIFY
    refusals = frozenset({Status.SIGNATURE_INVALID})

    message: bytes
    mac: bytes

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        stack.verify_mac(key, self.algorithm, self.message, self.mac)
        return bytes(stack.mac(key, self.algorithm, self.message))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecryptCase(Case):
    """A ciphertext, with nonce and tag where the algorithm has them."""

    operation = KeyOperation.DECRYPT
    refusals = frozenset({Status.DECRYPTION_FAILED, _ARGUMENT})

    ciphertext: bytes
    nonce: bytes = b""
    aad: bytes = b""
    tag: bytes = b""

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        return stack.decrypt(key, self.algorithm, self.ciphertext, nonce=self.nonce, aad=self.aad, tag=self.tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecryptByNameCase(DecryptCase):
    """A ciphertext of RSAES-PKCS1-v1_5, which a slot must allow by name; a wrong one yields something else."""

    in_slot = True
    rejects_implicitly = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptCase(Case):
    """A plaintext under a nonce of the caller's, which only a slot lets him choose.

    `expected` is ciphertext and tag; of a mode that pads, `expected` may end before the padding's block.
    """

    operation = KeyOperation.ENCRYPT
    refusals = frozenset({_ARGUMENT})
    in_slot = True

    plaintext: bytes
    nonce: bytes
    aad: bytes = b""
    padded: bool = False

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        made = stack.encrypt(key, self.algorithm, self.plaintext, nonce=self.nonce, aad=self.aad)
        return made.ciphertext[: -16 if self.padded else None] + made.tag


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreeCase(Case):
    """A key agreement; the shared secret becomes a key, and is compared by what it computes."""

    operation = KeyOperation.AGREE
    refusals = frozenset({_ARGUMENT})

    peer: bytes
    size: int

    @property
    def makes(self) -> str:
        return SECRET_TYPES[self.size]

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        with stack.agree_key(key, self._params()) as made:
            return bytes(stack.mac(made, _PROBE_ALGORITHM, _PROBE))

    def ask_into(self, stack: CryptoStack, key: str, target: str) -> Outcome:
        """Ask where the secret leaves the provider for a slot of another: that of a TPM cannot stay there."""
        stack.agree_key(key, self._params(), slot=target)
        return bytes(stack.mac(target, _PROBE_ALGORITHM, _PROBE))

    def _params(self) -> AgreeKeyParams:
        return AgreeKeyParams(key_type=self.makes, permissions=P.SIGN, peer_public_key=self.peer)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeriveCase(Case):
    """A derivation; the derived key is compared by what it computes."""

    operation = KeyOperation.DERIVE
    refusals = frozenset({_ARGUMENT})

    kdf: KdfParameters
    size: int

    @property
    def makes(self) -> str:
        return SECRET_TYPES[self.size]

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        params = DeriveKeyParams(key_type=self.makes, permissions=P.SIGN, kdf=self.kdf)
        with stack.derive_key(key, params) as made:
            return bytes(stack.mac(made, _PROBE_ALGORITHM, _PROBE))


def fingerprint(secret: bytes) -> bytes:
    """What a key of this value must compute, for the cases that cannot read it."""
    mac = hmac.HMAC(secret, hashes.SHA256())
    mac.update(_PROBE)
    return mac.finalize()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecapsulateCase(Case):
    """A KEM ciphertext."""

    operation = KeyOperation.DECAPSULATE
    refusals = frozenset({Status.DECRYPTION_FAILED, _ARGUMENT})

    ciphertext: bytes

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        return stack.decapsulate(key, self.algorithm, self.ciphertext)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncapsulateCase(Case):
    """A public key to encapsulate to. The secret is random, so it is only made."""

    operation = KeyOperation.ENCAPSULATE
    refusals = frozenset({_ARGUMENT})

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        stack.encapsulate(key, self.algorithm)
        return Token.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPairCase(Case):
    """A private key and the public key that belongs to it, as SubjectPublicKeyInfo."""

    operation = KeyOperation.IMPORT
    refusals = frozenset({_ARGUMENT})

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        assert isinstance(key, CryptoResourceGuard)
        return key.public_key


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestCase(Case):
    """A digest; no key."""

    operation = KeyOperation.DIGEST
    refusals = frozenset[Status]()

    message: bytes

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        return stack.digest(self.algorithm, self.message, provider=provider)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnwrapCase(Case):
    """A wrapped key; it is compared by what it computes. Only a slot may hold an imported key that unwraps."""

    operation = KeyOperation.UNWRAP
    refusals = frozenset({Status.DECRYPTION_FAILED, _ARGUMENT})
    in_slot = True

    wrapped: bytes
    size: int

    @classmethod
    def of(cls, test: str, verdict: Verdict, algorithm: str, key: Key, wrapped: bytes, value: bytes) -> "UnwrapCase":
        """A case for a value; one of a size that no key type has is taken for 32 bytes, and must fail."""
        size = len(value) if len(value) in SECRET_TYPES else 32
        return cls(
            test=test,
            verdict=verdict,
            keys=(key,),
            algorithm=algorithm,
            expected=fingerprint(value),
            wrapped=wrapped,
            size=size,
        )

    @property
    def makes(self) -> str:
        return SECRET_TYPES[self.size]

    @property
    def wraps(self) -> str:
        return self.makes

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        params = UnwrapKeyParams(algorithm=self.algorithm, key_type=self.makes, permissions=P.SIGN, format="raw")
        with stack.unwrap_key(key, params, self.wrapped) as made:
            return bytes(stack.mac(made, _PROBE_ALGORITHM, _PROBE))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapCase(Case):
    """A key to be wrapped by an algorithm that leaves nothing to chance."""

    operation = KeyOperation.WRAP
    refusals = frozenset({_ARGUMENT})
    in_slot = True

    value: bytes

    @property
    def wraps(self) -> str:
        return SECRET_TYPES[len(self.value)]

    def ask(self, stack: CryptoStack, key: CryptoResourceGuard | str, provider: str) -> Outcome:
        params = ImportKeyParams(key_type=self.wraps, permissions=P.EXPORT, format="raw")
        with stack.import_key(params, self.value, provider=provider) as wrapped:
            return bytes(stack.wrap_key(key, wrapped, WrapKeyParams(algorithm=self.algorithm)))
