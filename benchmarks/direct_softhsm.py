"""What a program does that signs with SoftHSM by itself: a session a thread, the key object found before."""

import os
from collections.abc import Callable
from hashlib import sha256

import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters

from hsmbridge.lab.rigs import SoftHsmToken
from hsmbridge.providers.pkcs11.initialise import open_module


def direct_softhsm_signers(rig: SoftHsmToken, message: bytes, count: int) -> list[Callable[[], object]]:
    """`count` P-256 signers over one key of a fresh token, each with a session of its own."""
    os.environ.update(rig.environment)
    # python-pkcs11 by itself initialises modules for one thread, and SoftHSM then crashes under several.
    token = open_module(str(rig.module)).library.get_token(token_label=rig.label)
    anchor = token.open(rw=True, user_pin=rig.pin_file.read_text())
    parameters = anchor.create_domain_parameters(
        pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
    )
    parameters.generate_keypair(store=True, label="direct")
    return [_signer(anchor if number == 0 else token.open(), message) for number in range(count)]


def _signer(session: pkcs11.Session, message: bytes) -> Callable[[], object]:
    key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="direct")
    if not isinstance(key, pkcs11.SignMixin):
        raise TypeError("the token's private key does not sign")
    return lambda: key.sign(sha256(message).digest(), mechanism=pkcs11.Mechanism.ECDSA)
