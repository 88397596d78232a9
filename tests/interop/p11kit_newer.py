"""python-pkcs11 by a newer p11-kit client: MODULE. Uses on every token what Debian 12's client cannot carry.

`cryptography` checks what comes of it. Says which mechanisms each token was used with. A process of its own, for it
runs with the C library that the client wants.
"""

import os
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import (
    KDF,
    MGF,
    Attribute,
    DecryptMixin,
    DeriveMixin,
    EncryptMixin,
    GCMParams,
    KeyType,
    Mechanism,
    MechanismFlag,
    ObjectClass,
    PrivateKey,
    PublicKey,
    SignMixin,
    UnwrapMixin,
    VerifyMixin,
    WrapMixin,
)
from pkcs11.attributes import AttributeMapper
from pkcs11.exceptions import MechanismInvalid
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters
from pkcs11.util.rsa import encode_rsa_public_key

MESSAGE = b"what is signed and encrypted"
IV = os.urandom(16)
NONCE = IV[:12]
HASHING = {Mechanism.ECDSA_SHA256: SHA256(), Mechanism.ECDSA_SHA384: SHA384(), Mechanism.ECDSA_SHA512: SHA512()}
HASHING_PSS = {
    Mechanism.SHA256_RSA_PKCS_PSS: (Mechanism.SHA256, MGF.SHA256, SHA256()),
    Mechanism.SHA512_RSA_PKCS_PSS: (Mechanism.SHA512, MGF.SHA512, SHA512()),
}
SIGNING = MechanismFlag.SIGN | MechanismFlag.VERIFY
ENCRYPTING = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
WRAPPING = MechanismFlag.WRAP | MechanismFlag.UNWRAP


def main(module: str) -> None:
    named = AttributeMapper()
    named.register_handler(Attribute.ALLOWED_MECHANISMS, pack_mechanisms, bytes)
    for token in pkcs11.lib(module).get_tokens():
        mechanisms = token.slot.get_mechanisms()
        with token.open(rw=True, attribute_mapper=named) as session:
            used = [*sign_with_a_hash(session), *sign_pss_with_a_hash(session)]
            if token.label != "tpm":  # which does not keep the secret that it agrees on
                used.append(agree(session))
            modes_ = [one for one in ELSEWHERE if one in mechanisms]
            used += [encrypt(session, one, store=True) for one in modes_]
            for one in modes_:
                encrypt(session, one, store=False)
            if Mechanism.AES_CMAC in mechanisms:
                used.append(authenticate(session))
            if wraps(token.slot, mechanisms):
                wrap(session)
            no_edwards_curves(session)
        print(token.label, *(mechanism.name for mechanism in used))


def wraps(slot: pkcs11.Slot, mechanisms: set[Mechanism]) -> bool:
    """Whether a token wraps keys by AES-GCM."""
    return Mechanism.AES_GCM in mechanisms and bool(
        slot.get_mechanism_info(Mechanism.AES_GCM).flags & MechanismFlag.WRAP
    )


def pack_mechanisms(mechanisms: Iterable[Mechanism]) -> bytes:
    """CKA_ALLOWED_MECHANISMS, which python-pkcs11 does not know: an AES key has one mode, GCM where none is named."""
    return b"".join(struct.pack("L", mechanism) for mechanism in mechanisms)


def sign_with_a_hash(session: pkcs11.Session) -> list[Mechanism]:
    for curve, size in (("secp256r1", 32), ("secp384r1", 48)):
        public, private = key_pair(session, curve, SIGNING)
        assert isinstance(public, VerifyMixin)
        assert isinstance(private, SignMixin)
        elsewhere = load_der_public_key(encode_ec_public_key(public))
        assert isinstance(elsewhere, ec.EllipticCurvePublicKey)
        for mechanism, hash_ in HASHING.items():
            signature = private.sign(MESSAGE, mechanism=mechanism)
            r, s = (int.from_bytes(half, "big") for half in (signature[:size], signature[size:]))
            elsewhere.verify(encode_dss_signature(r, s), MESSAGE, ec.ECDSA(hash_))
            assert public.verify(MESSAGE, signature, mechanism=mechanism)
            assert not public.verify(MESSAGE[1:], signature, mechanism=mechanism)
    return list(HASHING)


def sign_pss_with_a_hash(session: pkcs11.Session) -> list[Mechanism]:
    public, private = session.generate_keypair(KeyType.RSA, 2048, capabilities=SIGNING)
    assert isinstance(private, SignMixin)
    elsewhere = load_der_public_key(encode_rsa_public_key(public))
    assert isinstance(elsewhere, rsa.RSAPublicKey)
    for mechanism, (number, mgf, hash_) in HASHING_PSS.items():
        signature = private.sign(MESSAGE, mechanism=mechanism, mechanism_param=(number, mgf, hash_.digest_size))
        elsewhere.verify(signature, MESSAGE, padding.PSS(padding.MGF1(hash_), hash_.digest_size), hash_)
    return list(HASHING_PSS)


def agree(session: pkcs11.Session) -> Mechanism:
    public, private = key_pair(session, "secp256r1", MechanismFlag.DERIVE)
    assert isinstance(private, DeriveMixin)
    ours = load_der_public_key(encode_ec_public_key(public))
    assert isinstance(ours, ec.EllipticCurvePublicKey)
    other = ec.generate_private_key(ec.SECP256R1())
    secret = private.derive_key(
        KeyType.GENERIC_SECRET,
        256,
        mechanism=Mechanism.ECDH1_DERIVE,
        mechanism_param=(
            KDF.NULL,
            None,
            other.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        ),
        capabilities=SIGNING,
    )
    assert isinstance(secret, SignMixin)
    expected = HMAC(other.exchange(ec.ECDH(), ours), SHA256())
    expected.update(MESSAGE)
    assert secret.sign(MESSAGE, mechanism=Mechanism.SHA256_HMAC) == expected.finalize()
    return Mechanism.ECDH1_DERIVE


def gcm_elsewhere(value: bytes) -> bytes:
    return AESGCM(value).encrypt(NONCE, MESSAGE, b"aad")


def cbc_elsewhere(value: bytes) -> bytes:
    padder, encryptor = PKCS7(128).padder(), Cipher(algorithms.AES(value), modes.CBC(IV)).encryptor()
    return encryptor.update(padder.update(MESSAGE) + padder.finalize()) + encryptor.finalize()


def ctr_elsewhere(value: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(value), modes.CTR(IV)).encryptor()
    return encryptor.update(MESSAGE) + encryptor.finalize()


ELSEWHERE: dict[Mechanism, tuple[object, Callable[[bytes], bytes]]] = {
    Mechanism.AES_GCM: (GCMParams(NONCE, b"aad"), gcm_elsewhere),
    Mechanism.AES_CBC_PAD: (IV, cbc_elsewhere),
    Mechanism.AES_CTR: (struct.pack("L16s", 128, IV), ctr_elsewhere),
}


def encrypt(session: pkcs11.Session, mechanism: Mechanism, *, store: bool) -> Mechanism:
    value = os.urandom(32)
    key = aes_key(session, value, ENCRYPTING, mechanism, store=store)
    assert isinstance(key, EncryptMixin)
    assert isinstance(key, DecryptMixin)
    parameter, elsewhere = ELSEWHERE[mechanism]
    encrypted = key.encrypt(MESSAGE, mechanism=mechanism, mechanism_param=parameter)
    assert encrypted == elsewhere(value)
    assert key.decrypt(encrypted, mechanism=mechanism, mechanism_param=parameter) == MESSAGE
    key.destroy()
    return mechanism


def authenticate(session: pkcs11.Session) -> Mechanism:
    value = os.urandom(32)
    key = aes_key(session, value, SIGNING, Mechanism.AES_CMAC, store=True)
    assert isinstance(key, SignMixin)
    expected = CMAC(algorithms.AES(value))
    expected.update(MESSAGE)
    assert key.sign(MESSAGE, mechanism=Mechanism.AES_CMAC) == expected.finalize()
    key.destroy()
    return Mechanism.AES_CMAC


def wrap(session: pkcs11.Session) -> None:
    wrapping = session.generate_key(KeyType.AES, 256, store=True, label="wrapping", capabilities=WRAPPING)
    assert isinstance(wrapping, WrapMixin)
    assert isinstance(wrapping, UnwrapMixin)
    secret = session.generate_key(
        KeyType.GENERIC_SECRET, 256, capabilities=SIGNING, template={Attribute.EXTRACTABLE: True}
    )
    # The stubs of python-pkcs11 say bytes where the parameters of a mechanism are meant.
    by: dict[str, Any] = {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(NONCE)}
    wrapped = wrapping.wrap_key(secret, **by)
    again = wrapping.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.GENERIC_SECRET,
        wrapped,
        capabilities=SIGNING,
        template={Attribute.VALUE_LEN: 32},
        **by,
    )
    assert isinstance(secret, SignMixin)
    assert isinstance(again, SignMixin)
    macs = {key.sign(MESSAGE, mechanism=Mechanism.SHA256_HMAC) for key in (secret, again)}
    assert len(macs) == 1
    wrapping.destroy()


def no_edwards_curves(session: pkcs11.Session) -> None:
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}
    parameters = session.create_domain_parameters(KeyType.EC_EDWARDS, curve, local=True)
    try:
        parameters.generate_keypair(mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN)
    except MechanismInvalid:
        return
    raise AssertionError("this client carries EdDSA, which docs/pkcs11.md denies")


def key_pair(session: pkcs11.Session, curve: str, uses: MechanismFlag) -> tuple[PublicKey, PrivateKey]:
    named = {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
    return session.create_domain_parameters(KeyType.EC, named, local=True).generate_keypair(capabilities=uses)


def aes_key(
    session: pkcs11.Session, value: bytes, uses: MechanismFlag, mechanism: Mechanism, *, store: bool
) -> pkcs11.Object:
    return session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.VALUE: value,
            Attribute.TOKEN: store,
            Attribute.LABEL: f"newer {mechanism.name}",
            Attribute.ALLOWED_MECHANISMS: [mechanism],
            Attribute.ENCRYPT: MechanismFlag.ENCRYPT in uses,
            Attribute.DECRYPT: MechanismFlag.DECRYPT in uses,
            Attribute.SIGN: MechanismFlag.SIGN in uses,
            Attribute.VERIFY: MechanismFlag.VERIFY in uses,
        }
    )


if __name__ == "__main__":
    main(sys.argv[1])
