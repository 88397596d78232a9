"""Parameters of mechanisms as C structures, byte for byte (PKCS#11 v3.2, section 6), which python-pkcs11 hands on.

A structure points to buffers, so both must live until the call has returned: keep the `Parameter` in a local variable
meanwhile. All numbers are CK_ULONG, and structures have the platform's padding.
"""

import ctypes
from dataclasses import dataclass

from pkcs11 import MGF, Mechanism

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, Kind

_CKZ_DATA_SPECIFIED = 1
_CKF_HKDF_SALT_NULL, _CKF_HKDF_SALT_DATA = 1, 2
_CKH_HEDGE_PREFERRED = 0
_CK_SP800_108_ITERATION_VARIABLE, _CK_SP800_108_DKM_LENGTH, _CK_SP800_108_BYTE_ARRAY = 1, 3, 4
_CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS = 1
_COUNTER_BITS = 32


@dataclass(frozen=True, slots=True)
class Parameter:
    """What goes to python-pkcs11 as `mechanism_param`, and what must not be freed meanwhile."""

    given: bytes | None
    keeps: object = None


NO_PARAMETER = Parameter(None)


class _Gcm(ctypes.Structure):
    _fields_ = (
        ("nonce", ctypes.c_char_p),
        ("nonce_size", ctypes.c_ulong),
        ("nonce_bits", ctypes.c_ulong),
        ("aad", ctypes.c_char_p),
        ("aad_size", ctypes.c_ulong),
        ("tag_bits", ctypes.c_ulong),
    )


class _Oaep(ctypes.Structure):
    _fields_ = (
        ("hash", ctypes.c_ulong),
        ("mgf", ctypes.c_ulong),
        ("source", ctypes.c_ulong),
        ("label", ctypes.c_char_p),
        ("label_size", ctypes.c_ulong),
    )


class _Pss(ctypes.Structure):
    _fields_ = (("hash", ctypes.c_ulong), ("mgf", ctypes.c_ulong), ("salt_size", ctypes.c_ulong))


class _Eddsa(ctypes.Structure):
    _fields_ = (("prehashed", ctypes.c_ubyte), ("context_size", ctypes.c_ulong), ("context", ctypes.c_char_p))


class _Ccm(ctypes.Structure):
    _fields_ = (
        ("data_size", ctypes.c_ulong),
        ("nonce", ctypes.c_char_p),
        ("nonce_size", ctypes.c_ulong),
        ("aad", ctypes.c_char_p),
        ("aad_size", ctypes.c_ulong),
        ("mac_size", ctypes.c_ulong),
    )


class _ChaCha20Poly1305(ctypes.Structure):
    _fields_ = (
        ("nonce", ctypes.c_char_p),
        ("nonce_size", ctypes.c_ulong),
        ("aad", ctypes.c_char_p),
        ("aad_size", ctypes.c_ulong),
    )


class _SignAdditionalContext(ctypes.Structure):
    _fields_ = (("hedge", ctypes.c_ulong), ("context", ctypes.c_char_p), ("context_size", ctypes.c_ulong))


class _Hkdf(ctypes.Structure):
    _fields_ = (
        ("extract", ctypes.c_ubyte),
        ("expand", ctypes.c_ubyte),
        ("hash", ctypes.c_ulong),
        ("salt_type", ctypes.c_ulong),
        ("salt", ctypes.c_char_p),
        ("salt_size", ctypes.c_ulong),
        ("salt_key", ctypes.c_ulong),
        ("info", ctypes.c_char_p),
        ("info_size", ctypes.c_ulong),
    )


class _PrfDataParameter(ctypes.Structure):
    _fields_ = (("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("size", ctypes.c_ulong))


class _CounterFormat(ctypes.Structure):
    _fields_ = (("little_endian", ctypes.c_ubyte), ("bits", ctypes.c_ulong))


class _LengthFormat(ctypes.Structure):
    _fields_ = (("method", ctypes.c_ulong), ("little_endian", ctypes.c_ubyte), ("bits", ctypes.c_ulong))


class _Kbkdf(ctypes.Structure):
    _fields_ = (
        ("prf", ctypes.c_ulong),
        ("count", ctypes.c_ulong),
        ("data", ctypes.c_void_p),
        ("further_count", ctypes.c_ulong),
        ("further", ctypes.c_void_p),
    )


def gcm(nonce: bytes, aad: bytes, tag_size: int) -> Parameter:
    """CK_GCM_PARAMS."""
    return _packed(_Gcm(nonce, len(nonce), len(nonce) * 8, aad or None, len(aad), tag_size * 8))


def oaep(hash_: Mechanism, mgf: MGF) -> Parameter:
    """CK_RSA_PKCS_OAEP_PARAMS without a label."""
    return _packed(_Oaep(int(hash_), int(mgf), _CKZ_DATA_SPECIFIED, None, 0))


def pss(hash_: Mechanism, mgf: MGF, salt_size: int) -> Parameter:
    """CK_RSA_PKCS_PSS_PARAMS."""
    return _packed(_Pss(int(hash_), int(mgf), salt_size))


def pure_eddsa() -> Parameter:
    """CK_EDDSA_PARAMS: not prehashed, no context."""
    return _packed(_Eddsa(0, 0, None))


def ccm(nonce: bytes, aad: bytes, size: int, tag_size: int) -> Parameter:
    """CK_CCM_PARAMS; `size` is that of the plaintext."""
    return _packed(_Ccm(size, nonce, len(nonce), aad or None, len(aad), tag_size))


def chacha20_poly1305(nonce: bytes, aad: bytes) -> Parameter:
    """CK_SALSA20_CHACHA20_POLY1305_PARAMS."""
    return _packed(_ChaCha20Poly1305(nonce, len(nonce), aad or None, len(aad)))


def signature_context(context: bytes) -> Parameter:
    """CK_SIGN_ADDITIONAL_CONTEXT of ML-DSA and SLH-DSA."""
    return _packed(_SignAdditionalContext(_CKH_HEDGE_PREFERRED, context, len(context)))


def hkdf(row: Algorithm, salt: bytes, info: bytes) -> Parameter:
    """CK_HKDF_PARAMS for both steps of an HKDF row."""
    salt_type = _CKF_HKDF_SALT_DATA if salt else _CKF_HKDF_SALT_NULL
    hash_ = ALGORITHMS[row.hash].ckm
    return _packed(_Hkdf(1, 1, hash_, salt_type, salt or None, len(salt), 0, info or None, len(info)))


def kbkdf_counter(row: Algorithm, label: bytes, context: bytes) -> Parameter:
    """CK_SP800_108_KDF_PARAMS: counter, label, 0x00, context, length, all as in `core.params.KbkdfCounter`."""
    counter = _CounterFormat(0, _COUNTER_BITS)
    fixed = ctypes.create_string_buffer(label + b"\0" + context, len(label) + 1 + len(context))
    length = _LengthFormat(_CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS, 0, _COUNTER_BITS)
    parts = (
        (_CK_SP800_108_ITERATION_VARIABLE, counter),
        (_CK_SP800_108_BYTE_ARRAY, fixed),
        (_CK_SP800_108_DKM_LENGTH, length),
    )
    data = (_PrfDataParameter * len(parts))(
        *(_PrfDataParameter(type_, ctypes.addressof(part), ctypes.sizeof(part)) for type_, part in parts)
    )
    whole = _Kbkdf(_hmac_mechanism(row.hash), len(parts), ctypes.addressof(data), 0, None)
    return Parameter(bytes(whole), (whole, data, parts))


def _hmac_mechanism(hash_: str) -> int | None:
    return next(row.ckm for row in ALGORITHMS.values() if row.kind is Kind.MAC and row.hash == hash_)


def _packed(structure: ctypes.Structure) -> Parameter:
    return Parameter(bytes(structure), structure)
