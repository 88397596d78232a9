"""A key pair that receives and does not sign: RSA that decrypts only, ECDH, X25519, X448, ML-KEM."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from est import refusals
from est.cms.agreement import SoftwareAgreer
from est.cms.enveloped import Opener, ReceivingPublicKey
from est.cms.transport import OAEP_DIGESTS


@dataclass(frozen=True, slots=True)
class Receiver:
    """A public key, and what opens that which is sealed for it, wherever that is."""

    public_key: ReceivingPublicKey
    opener: Opener


def software_receiver(private_key: PrivateKeyTypes) -> Receiver:
    """A receiver whose key is in the memory of this process.

    Raises:
        RequestError: keys of this type receive nothing.
    """
    match private_key:
        case rsa.RSAPrivateKey():
            return Receiver(private_key.public_key(), Opener(rsa=private_key, oaep=tuple(OAEP_DIGESTS)))
        case ec.EllipticCurvePrivateKey() | x25519.X25519PrivateKey() | x448.X448PrivateKey():
            return Receiver(private_key.public_key(), Opener(agreement=SoftwareAgreer(private_key)))
        case mlkem.MLKEM768PrivateKey() | mlkem.MLKEM1024PrivateKey():
            return Receiver(private_key.public_key(), Opener(kem=private_key))
        case _:
            raise refusals.unsupported("A key of this type neither decrypts nor agrees nor decapsulates.")
