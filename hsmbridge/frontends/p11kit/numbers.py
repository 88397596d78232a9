"""Numbers of PKCS#11 v3.1, as far as this front end uses them. Names are the standard's without their prefix."""

from enum import IntEnum, IntFlag, unique
from typing import Final


@unique
class Ckr(IntEnum):
    """CKR_*: return values."""

    OK = 0x00
    SLOT_ID_INVALID = 0x03
    GENERAL_ERROR = 0x05
    FUNCTION_FAILED = 0x06
    ARGUMENTS_BAD = 0x07
    NO_EVENT = 0x08
    ATTRIBUTE_READ_ONLY = 0x10
    ATTRIBUTE_SENSITIVE = 0x11
    ATTRIBUTE_TYPE_INVALID = 0x12
    ATTRIBUTE_VALUE_INVALID = 0x13
    ACTION_PROHIBITED = 0x1B
    DATA_INVALID = 0x20
    DATA_LEN_RANGE = 0x21
    DEVICE_ERROR = 0x30
    DEVICE_MEMORY = 0x31
    ENCRYPTED_DATA_INVALID = 0x40
    ENCRYPTED_DATA_LEN_RANGE = 0x41
    FUNCTION_NOT_SUPPORTED = 0x54
    KEY_HANDLE_INVALID = 0x60
    KEY_SIZE_RANGE = 0x62
    KEY_TYPE_INCONSISTENT = 0x63
    KEY_FUNCTION_NOT_PERMITTED = 0x68
    KEY_UNEXTRACTABLE = 0x6A
    MECHANISM_INVALID = 0x70
    MECHANISM_PARAM_INVALID = 0x71
    OBJECT_HANDLE_INVALID = 0x82
    OPERATION_ACTIVE = 0x90
    OPERATION_NOT_INITIALIZED = 0x91
    PIN_INCORRECT = 0xA0
    PIN_LOCKED = 0xA4
    SESSION_COUNT = 0xB1
    SESSION_HANDLE_INVALID = 0xB3
    SESSION_PARALLEL_NOT_SUPPORTED = 0xB4
    SESSION_READ_ONLY = 0xB5
    SIGNATURE_INVALID = 0xC0
    SIGNATURE_LEN_RANGE = 0xC1
    TEMPLATE_INCOMPLETE = 0xD0
    TEMPLATE_INCONSISTENT = 0xD1
    TOKEN_NOT_PRESENT = 0xE0
    USER_ALREADY_LOGGED_IN = 0x100
    USER_NOT_LOGGED_IN = 0x101
    USER_TYPE_INVALID = 0x103
    RANDOM_SEED_NOT_SUPPORTED = 0x120
    BUFFER_TOO_SMALL = 0x150
    STATE_UNSAVEABLE = 0x180
    CRYPTOKI_NOT_INITIALIZED = 0x190
    CRYPTOKI_ALREADY_INITIALIZED = 0x191


@unique
class Cka(IntEnum):
    """CKA_*: attributes."""

    CLASS = 0x00
    TOKEN = 0x01
    PRIVATE = 0x02
    LABEL = 0x03
    UNIQUE_ID = 0x04
    VALUE = 0x11
    CERTIFICATE_TYPE = 0x80
    ISSUER = 0x81
    SERIAL_NUMBER = 0x82
    TRUSTED = 0x86
    CERTIFICATE_CATEGORY = 0x87
    URL = 0x89
    CHECK_VALUE = 0x90
    KEY_TYPE = 0x100
    SUBJECT = 0x101
    ID = 0x102
    SENSITIVE = 0x103
    ENCRYPT = 0x104
    DECRYPT = 0x105
    WRAP = 0x106
    UNWRAP = 0x107
    SIGN = 0x108
    SIGN_RECOVER = 0x109
    VERIFY = 0x10A
    VERIFY_RECOVER = 0x10B
    DERIVE = 0x10C
    START_DATE = 0x110
    END_DATE = 0x111
    MODULUS = 0x120
    MODULUS_BITS = 0x121
    PUBLIC_EXPONENT = 0x122
    PRIVATE_EXPONENT = 0x123
    PRIME_1 = 0x124
    PRIME_2 = 0x125
    EXPONENT_1 = 0x126
    EXPONENT_2 = 0x127
    COEFFICIENT = 0x128
    PUBLIC_KEY_INFO = 0x129
    VALUE_LEN = 0x161
    EXTRACTABLE = 0x162
    LOCAL = 0x163
    NEVER_EXTRACTABLE = 0x164
    ALWAYS_SENSITIVE = 0x165
    KEY_GEN_MECHANISM = 0x166
    MODIFIABLE = 0x170
    COPYABLE = 0x171
    DESTROYABLE = 0x172
    EC_PARAMS = 0x180
    EC_POINT = 0x181
    ALWAYS_AUTHENTICATE = 0x202
    WRAP_WITH_TRUSTED = 0x210
    ALLOWED_MECHANISMS = 0x40000600


@unique
class Cko(IntEnum):
    """CKO_*: object classes."""

    DATA = 0
    CERTIFICATE = 1
    PUBLIC_KEY = 2
    PRIVATE_KEY = 3
    SECRET_KEY = 4


@unique
class Ckk(IntEnum):
    """CKK_*: key types, those that a template is read by; the others come from the table of key types."""

    RSA = 0x00
    EC = 0x03
    GENERIC_SECRET = 0x10
    AES = 0x1F


@unique
class Ckm(IntEnum):
    """CKM_*: mechanisms that are no row of the table of algorithms, or several."""

    RSA_PKCS = 0x01
    RSA_PKCS_OAEP = 0x09
    RSA_PKCS_PSS = 0x0D
    ECDSA = 0x1041
    ECDSA_SHA256 = 0x1044
    ECDSA_SHA384 = 0x1045
    ECDSA_SHA512 = 0x1046
    ECDH1_DERIVE = 0x1050
    AES_CBC_PAD = 0x1085
    AES_CTR = 0x1086
    AES_GCM = 0x1087
    AES_CFB128 = 0x2107


class SlotFlag(IntFlag):
    """CKF_* of CK_SLOT_INFO."""

    TOKEN_PRESENT = 0x1
    HW_SLOT = 0x4


class TokenFlag(IntFlag):
    """CKF_* of CK_TOKEN_INFO."""

    RNG = 0x1
    LOGIN_REQUIRED = 0x4
    USER_PIN_INITIALIZED = 0x8
    PROTECTED_AUTHENTICATION_PATH = 0x100
    TOKEN_INITIALIZED = 0x400


class SessionFlag(IntFlag):
    """CKF_* of CK_SESSION_INFO."""

    RW_SESSION = 0x2
    SERIAL_SESSION = 0x4


class MechanismFlag(IntFlag):
    """CKF_* of CK_MECHANISM_INFO."""

    ENCRYPT = 0x100
    DECRYPT = 0x200
    DIGEST = 0x400
    SIGN = 0x800
    VERIFY = 0x2000
    GENERATE = 0x8000
    GENERATE_KEY_PAIR = 0x10000
    WRAP = 0x20000
    UNWRAP = 0x40000
    DERIVE = 0x80000
    EC = 0x100000 | 0x800000 | 0x1000000
    """F_P, NAMEDCURVE, UNCOMPRESS: prime fields, curves by name, uncompressed points."""


@unique
class SessionState(IntEnum):
    """CKS_*."""

    RO_PUBLIC_SESSION = 0
    RO_USER_FUNCTIONS = 1
    RW_PUBLIC_SESSION = 2
    RW_USER_FUNCTIONS = 3


USER: Final = 1
CONTEXT_SPECIFIC: Final = 2
DONT_BLOCK: Final = 1
"""CKF_DONT_BLOCK of C_WaitForSlotEvent."""

HASH_OF: Final = {0x220: "SHA-1", 0x250: "SHA-256", 0x260: "SHA-384", 0x270: "SHA-512"}
"""By CKM_* of the digest, as mechanism parameters name it."""
MGF_OF: Final = {"SHA-1": 1, "SHA-256": 2, "SHA-384": 3, "SHA-512": 4}
"""CKG_MGF1_* by hash."""
KDF_NULL: Final = 1
KDF_OF: Final = {6: "X963KDF-SHA256", 7: "X963KDF-SHA384", 8: "X963KDF-SHA512"}
"""By CKD_*_KDF."""
