"""Keys in slots that receive: what was sealed for them is opened by the daemon, and the keys stay in it.

What an EC, X25519 or X448 key agrees, and the content-encryption key under it, are ephemeral keys of the daemon; the
content alone comes out. A token that has no X9.63 KDF can do so where its slot says derive_to_software.
"""

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x448, x25519

from est import keys, refusals
from est.cms.agreement import Agreed
from est.cms.content import EncryptedContent
from est.cms.enveloped import Opener
from est.cms.receiver import Receiver
from est.cms.transport import OAEP_DIGESTS
from hsmbridge.client import (
    X963,
    AgreeKeyParams,
    CryptoStack,
    KeyOperationPermission,
    UnwrapKeyParams,
)
from hsmbridge.client.pyca import private_key


def slot_receiver(stack: CryptoStack, name: str) -> Receiver:
    """What is sealed for the active key of a slot is opened there.

    Raises:
        ResourceError: there is no such slot.
        RequestError: keys of its type receive nothing.
    """
    match private_key(stack, name):
        case rsa.RSAPrivateKey() as private:
            return Receiver(private.public_key(), Opener(rsa=private, oaep=_oaep_digests(stack, name)))
        case (ec.EllipticCurvePrivateKey() | x25519.X25519PrivateKey() | x448.X448PrivateKey()) as private:
            return Receiver(private.public_key(), Opener(agreement=SlotAgreer(stack, name)))
        case (mlkem.MLKEM768PrivateKey() | mlkem.MLKEM1024PrivateKey()) as private:
            return Receiver(private.public_key(), Opener(kem=private))
        case _:
            raise refusals.unsupported(f"The key in slot {name!r} neither decrypts nor agrees nor decapsulates.")


def _oaep_digests(stack: CryptoStack, name: str) -> tuple[str, ...]:
    """The digests that the slot's provider decrypts RSAES-OAEP with."""
    allowed = stack.show_slot(name)
    claimed = {
        claim.algorithm
        for provider in stack.providers()
        if provider.name in allowed.providers
        for claim in provider.claims
    }
    wanted = ((digest, f"RSA-OAEP-{digest.upper()}") for digest in OAEP_DIGESTS)
    return tuple(
        digest for digest, row in wanted if row in claimed and (not allowed.algorithms or row in allowed.algorithms)
    )


class SlotAgreer:
    """An agreement key in a slot."""

    def __init__(self, stack: CryptoStack, name: str) -> None:
        self._stack, self._name = stack, name

    def open(self, agreed: Agreed, content: EncryptedContent) -> bytes:
        """The content; the keys on the way to it stay in the daemon."""
        unwrapping = UnwrapKeyParams(
            key_type=_aes(content.key_length),
            permissions=KeyOperationPermission.DECRYPT,
            algorithm=f"{_aes(agreed.wrap_length)}-KW",
        )
        agreeing = AgreeKeyParams(
            key_type=_aes(agreed.wrap_length),
            permissions=KeyOperationPermission.UNWRAP,
            peer_public_key=keys.spki(agreed.peer),
            kdf=X963(shared_info=agreed.shared_info),
        )
        with (
            self._stack.agree_key(self._name, agreeing) as wrapping,
            self._stack.unwrap_key(wrapping, unwrapping, agreed.wrapped) as key,
        ):
            algorithm = f"{_aes(content.key_length)}-CBC"
            return self._stack.decrypt(key, algorithm, content.ciphertext, nonce=content.iv)


def _aes(length: int) -> str:
    return f"AES-{8 * length}"
