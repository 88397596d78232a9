"""What a program does that uses a PKCS#11 token by itself, through python-pkcs11: a session and the key object kept.

Keys are objects of the token, as the keys of slots are. Where a token hashes by itself what it signs is not tried:
ECDSA gets the digest, as SoftHSM needs it.
"""

import hashlib
from collections.abc import Callable, Mapping

import pkcs11
import pkcs11.exceptions
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import KDF, MGF, Attribute, KeyType, Mechanism
from pkcs11.mechanisms import CTRParams, GCMParams, MLDSAParameterSet, MLKEMParameterSet
from pkcs11.util.ec import encode_named_curve_parameters

from benchmarks.workload import NoDirectCall, Operation, payload
from hsmbridge.core import key_types
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Scheme
from hsmbridge.providers.pkcs11.initialise import open_module

_HASHLIB: Mapping[str, str] = {"SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
_CURVES: Mapping[str, ec.EllipticCurve] = {
    "EC-P256": ec.SECP256R1(),
    "EC-P384": ec.SECP384R1(),
    "EC-P521": ec.SECP521R1(),
}
_RSA = {
    ("SHA-1", Scheme.RSASSA_PKCS1): Mechanism.SHA1_RSA_PKCS,
    ("SHA-256", Scheme.RSASSA_PKCS1): Mechanism.SHA256_RSA_PKCS,
    ("SHA-384", Scheme.RSASSA_PKCS1): Mechanism.SHA384_RSA_PKCS,
    ("SHA-512", Scheme.RSASSA_PKCS1): Mechanism.SHA512_RSA_PKCS,
    ("SHA-256", Scheme.RSASSA_PSS): Mechanism.SHA256_RSA_PKCS_PSS,
    ("SHA-384", Scheme.RSASSA_PSS): Mechanism.SHA384_RSA_PKCS_PSS,
    ("SHA-512", Scheme.RSASSA_PSS): Mechanism.SHA512_RSA_PKCS_PSS,
}
_MASKED = {
    "SHA-1": (Mechanism.SHA_1, MGF.SHA1, 20),
    "SHA-256": (Mechanism.SHA256, MGF.SHA256, 32),
    "SHA-384": (Mechanism.SHA384, MGF.SHA384, 48),
    "SHA-512": (Mechanism.SHA512, MGF.SHA512, 64),
}
_MACS = {
    "HMAC-SHA256": Mechanism.SHA256_HMAC,
    "HMAC-SHA384": Mechanism.SHA384_HMAC,
    "HMAC-SHA512": Mechanism.SHA512_HMAC,
    "HMAC-SHA3-256": Mechanism.SHA3_256_HMAC,
    "HMAC-SHA3-384": Mechanism.SHA3_384_HMAC,
    "HMAC-SHA3-512": Mechanism.SHA3_512_HMAC,
}
_DIGESTS = {
    "SHA-1": Mechanism.SHA_1,
    "SHA-256": Mechanism.SHA256,
    "SHA-384": Mechanism.SHA384,
    "SHA-512": Mechanism.SHA512,
    "SHA3-256": Mechanism.SHA3_256,
    "SHA3-384": Mechanism.SHA3_384,
    "SHA3-512": Mechanism.SHA3_512,
}
_CIPHERS = {
    Scheme.GCM: Mechanism.AES_GCM,
    Scheme.CBC: Mechanism.AES_CBC_PAD,
    Scheme.CTR: Mechanism.AES_CTR,
    Scheme.CFB: Mechanism.AES_CFB128,
}
_LATTICES = {
    "ML-DSA-44": (KeyType.ML_DSA, MLDSAParameterSet.ML_DSA_44),
    "ML-DSA-65": (KeyType.ML_DSA, MLDSAParameterSet.ML_DSA_65),
    "ML-DSA-87": (KeyType.ML_DSA, MLDSAParameterSet.ML_DSA_87),
    "ML-KEM-512": (KeyType.ML_KEM, MLKEMParameterSet.ML_KEM_512),
    "ML-KEM-768": (KeyType.ML_KEM, MLKEMParameterSet.ML_KEM_768),
    "ML-KEM-1024": (KeyType.ML_KEM, MLKEMParameterSet.ML_KEM_1024),
}


class Token:
    """A token that nobody else uses."""

    def __init__(self, module: str, label: str, pin: str, arguments: str = "") -> None:
        # python-pkcs11 by itself initialises modules for one thread.
        token = open_module(module, arguments).library.get_token(token_label=label)
        self._session = token.open(rw=True, user_pin=pin)
        self._pairs: dict[str, tuple[pkcs11.PublicKey, pkcs11.PrivateKey]] = {}
        self._secrets: dict[str, pkcs11.SecretKey] = {}

    def operation(self, row: Algorithm, key_type: key_types.KeyType | None, operation: KeyOperation) -> Operation:
        make = _SCHEMES.get(row.scheme)
        if make is None:
            raise NoDirectCall(f"python-pkcs11 has no call for {row.scheme}")
        return make(self, row, key_type, operation)

    def pair(self, key_type: key_types.KeyType) -> tuple[pkcs11.PublicKey, pkcs11.PrivateKey]:
        if key_type.name not in self._pairs:
            self._pairs[key_type.name] = self._new_pair(key_type)
        return self._pairs[key_type.name]

    def _new_pair(self, key_type: key_types.KeyType) -> tuple[pkcs11.PublicKey, pkcs11.PrivateKey]:
        if key_type.family is key_types.Family.RSA:
            return self._session.generate_keypair(KeyType.RSA, key_type.bits, store=True)
        if key_type.name in _LATTICES:
            kind, chosen = _LATTICES[key_type.name]
            return self._session.generate_keypair(kind, store=True, public_template={Attribute.PARAMETER_SET: chosen})
        kinds = {key_types.Family.EC: KeyType.EC, key_types.Family.EDWARDS: KeyType.EC_EDWARDS}
        if key_type.family not in kinds:
            raise NoDirectCall(f"python-pkcs11 has no {key_type.family} keys here")
        der = encode_named_curve_parameters(key_type.ec_parameters)
        parameters = self._session.create_domain_parameters(
            kinds[key_type.family], {Attribute.EC_PARAMS: der}, local=True
        )
        return parameters.generate_keypair(store=True)

    def secret(self, key_type: key_types.KeyType) -> pkcs11.SecretKey:
        """A key of the token."""
        if key_type.name not in self._secrets:
            self._secrets[key_type.name] = self._new_secret(key_type)
        return self._secrets[key_type.name]

    def _new_secret(self, key_type: key_types.KeyType) -> pkcs11.SecretKey:
        if key_type.name.startswith("AES"):
            return self._session.generate_key(KeyType.AES, key_type.bits, store=True)
        return self._session.generate_key(
            KeyType.GENERIC_SECRET,
            key_type.bits,
            store=True,
            mechanism=Mechanism.GENERIC_SECRET_KEY_GEN,
            capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
        )

    def digest(self, data: bytes, mechanism: Mechanism) -> Operation:
        return lambda: self._session.digest(data, mechanism=mechanism)

    def random(self) -> bytes:
        """One random byte."""
        return self._session.generate_random(8)


def _rsa_signature(
    token: Token, row: Algorithm, key_type: key_types.KeyType | None, operation: KeyOperation
) -> Operation:
    public, private = token.pair(_given(key_type))
    mechanism, message = _RSA[row.hash, row.scheme], payload(row)
    parameter = _MASKED[row.hash] if row.scheme is Scheme.RSASSA_PSS else None
    return _signature(public, private, message, mechanism, parameter, operation)


def _ecdsa(token: Token, row: Algorithm, key_type: key_types.KeyType | None, operation: KeyOperation) -> Operation:
    public, private = token.pair(_given(key_type))
    signer, verifier = _signer(private), _verifier(public)
    hash_, message = _HASHLIB[row.hash], payload(row)

    def digest() -> bytes:
        return hashlib.new(hash_, message).digest()

    def sign() -> bytes:
        raw = signer.sign(digest(), mechanism=Mechanism.ECDSA)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    if operation is KeyOperation.SIGN:
        return sign
    signature = signer.sign(digest(), mechanism=Mechanism.ECDSA)
    return lambda: verifier.verify(digest(), signature, mechanism=Mechanism.ECDSA)


def _eddsa(token: Token, row: Algorithm, key_type: key_types.KeyType | None, operation: KeyOperation) -> Operation:
    """Ed448 takes CK_EDDSA_PARAMS by the standard, and in some tokens none; what works is found by trying."""
    public, private = token.pair(_given(key_type))
    try:
        _signer(private).sign(payload(row), mechanism=Mechanism.EDDSA)
    except pkcs11.exceptions.MechanismParamInvalid:
        return _signature(public, private, payload(row), Mechanism.EDDSA, (False, None), operation)
    return _signature(public, private, payload(row), Mechanism.EDDSA, None, operation)


def _ml_dsa(token: Token, row: Algorithm, key_type: key_types.KeyType | None, operation: KeyOperation) -> Operation:
    public, private = token.pair(_given(key_type))
    return _signature(public, private, payload(row), Mechanism.ML_DSA, None, operation)


def _ml_kem(token: Token, _row: Algorithm, key_type: key_types.KeyType | None, operation: KeyOperation) -> Operation:
    """The secret becomes a session object that is read, as ours is, and destroyed."""
    public, private = token.pair(_given(key_type))
    if not isinstance(public, pkcs11.EncapsulateMixin) or not isinstance(private, pkcs11.DecapsulateMixin):
        raise NoDirectCall("the token's pair does not encapsulate")
    template = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}

    def encapsulate() -> bytes:
        ciphertext, secret = public.encapsulate_key(
            KeyType.GENERIC_SECRET, 256, capabilities=pkcs11.MechanismFlag.SIGN, template=template
        )
        _read(secret)
        return ciphertext

    if operation is KeyOperation.ENCAPSULATE:
        return encapsulate
    sealed = encapsulate()

    def decapsulate() -> bytes:
        return _read(
            private.decapsulate_key(
                sealed, KeyType.GENERIC_SECRET, 256, capabilities=pkcs11.MechanismFlag.SIGN, template=template
            )
        )

    return decapsulate


def _read(secret: pkcs11.SecretKey) -> bytes:
    value = bytes(secret[Attribute.VALUE])
    secret.destroy()
    return value


def _signature(
    public: pkcs11.PublicKey,
    private: pkcs11.PrivateKey,
    message: bytes,
    mechanism: Mechanism,
    parameter: tuple[object, ...] | None,
    operation: KeyOperation,
) -> Operation:
    signer, verifier = _signer(private), _verifier(public)
    if operation is KeyOperation.SIGN:
        return lambda: signer.sign(message, mechanism=mechanism, mechanism_param=parameter)
    signature = signer.sign(message, mechanism=mechanism, mechanism_param=parameter)
    return lambda: verifier.verify(message, signature, mechanism=mechanism, mechanism_param=parameter)


def _oaep(token: Token, row: Algorithm, key_type: key_types.KeyType | None, operation: KeyOperation) -> Operation:
    public, private = token.pair(_given(key_type))
    if not isinstance(public, pkcs11.EncryptMixin) or not isinstance(private, pkcs11.DecryptMixin):
        raise NoDirectCall("the token's pair does not encrypt")
    data, parameter = payload(row), (*_MASKED[row.hash][:2], None)
    if operation is KeyOperation.ENCRYPT:
        return lambda: public.encrypt(data, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameter)
    sealed = public.encrypt(data, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameter)
    return lambda: private.decrypt(sealed, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameter)


def _cipher(token: Token, row: Algorithm, key_type: key_types.KeyType | None, operation: KeyOperation) -> Operation:
    key, data = token.secret(_given(key_type)), payload(row)
    if not isinstance(key, pkcs11.EncryptMixin) or not isinstance(key, pkcs11.DecryptMixin):
        raise NoDirectCall("the token's key does not encrypt")
    counter = iter(range(1, 1 << 62))
    chosen = _CIPHERS[row.scheme]

    def parameter() -> GCMParams | CTRParams | bytes:
        number = next(counter)
        if row.scheme is Scheme.GCM:
            return GCMParams(number.to_bytes(12, "big"))
        return CTRParams(number.to_bytes(12, "big")) if row.scheme is Scheme.CTR else number.to_bytes(16, "big")

    if operation is KeyOperation.ENCRYPT:
        return lambda: key.encrypt(data, mechanism=chosen, mechanism_param=parameter(), buffer_size=len(data) + 64)
    used = parameter()
    sealed = key.encrypt(data, mechanism=chosen, mechanism_param=used, buffer_size=len(data) + 64)
    return lambda: key.decrypt(sealed, mechanism=chosen, mechanism_param=used, buffer_size=len(data) + 64)


def _mac(token: Token, row: Algorithm, key_type: key_types.KeyType | None, operation: KeyOperation) -> Operation:
    mechanism = Mechanism.AES_CMAC if row.scheme is Scheme.CMAC else _MACS.get(row.name)
    if mechanism is None:
        raise NoDirectCall(f"python-pkcs11 has no constant for {row.name} here")
    key, data = token.secret(_given(key_type)), payload(row)
    signer, verifier = _signer(key), _verifier(key)
    if operation is KeyOperation.SIGN:
        return lambda: signer.sign(data, mechanism=mechanism)
    value = signer.sign(data, mechanism=mechanism)
    return lambda: verifier.verify(data, value, mechanism=mechanism)


def _agreement(
    token: Token, _row: Algorithm, key_type: key_types.KeyType | None, _operation: KeyOperation
) -> Operation:
    """The secret becomes a session object, which is destroyed, as ours is when it is released."""
    _, private = token.pair(_given(key_type))
    if not isinstance(private, pkcs11.DeriveMixin):
        raise NoDirectCall("the token's key does not agree")
    curve = _CURVES[_given(key_type).name]
    peer = ec.generate_private_key(curve).public_key()
    point = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def agree() -> None:
        secret = private.derive_key(
            KeyType.GENERIC_SECRET,
            (curve.key_size + 7) // 8 * 8,
            capabilities=pkcs11.MechanismFlag.SIGN,
            mechanism_param=(KDF.NULL, None, point),
        )
        secret.destroy()

    return agree


def _hash(token: Token, row: Algorithm, _: key_types.KeyType | None, __: KeyOperation) -> Operation:
    if row.name not in _DIGESTS:
        raise NoDirectCall(f"python-pkcs11 has no constant for {row.name} here")
    return token.digest(payload(row), _DIGESTS[row.name])


_Make = Callable[[Token, Algorithm, "key_types.KeyType | None", KeyOperation], Operation]
_SCHEMES: Mapping[Scheme, _Make] = {
    Scheme.RSASSA_PKCS1: _rsa_signature,
    Scheme.RSASSA_PSS: _rsa_signature,
    Scheme.RSAES_OAEP: _oaep,
    Scheme.ECDSA: _ecdsa,
    Scheme.EDDSA: _eddsa,
    Scheme.ECDH: _agreement,
    Scheme.GCM: _cipher,
    Scheme.CBC: _cipher,
    Scheme.CTR: _cipher,
    Scheme.CFB: _cipher,
    Scheme.ML_DSA: _ml_dsa,
    Scheme.ML_KEM: _ml_kem,
    Scheme.HMAC: _mac,
    Scheme.CMAC: _mac,
    Scheme.HASH: _hash,
}


def _given(key_type: key_types.KeyType | None) -> key_types.KeyType:
    if key_type is None:
        raise NoDirectCall("there is no key")
    return key_type


def _signer(key: pkcs11.Key) -> pkcs11.SignMixin:
    if not isinstance(key, pkcs11.SignMixin):
        raise NoDirectCall("the token's key does not sign")
    return key


def _verifier(key: pkcs11.Key) -> pkcs11.VerifyMixin:
    if not isinstance(key, pkcs11.VerifyMixin):
        raise NoDirectCall("the token's key does not verify")
    return key
