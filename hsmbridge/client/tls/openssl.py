"""The OpenSSL that Python's ssl module uses, called through ctypes; refused where it is not one that is known.

Not a binding: these are the two dozen functions that the provider of this package and its use in a context need.
The library is found through the ssl module's own file, so it is the one in use and no other copy; it has to be of
the major version 3, dynamically linked, and to tell the version that the ssl module tells.
"""

import _ssl
import ctypes
import ssl
import sys
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_long, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from hsmbridge.core.errors import RequestError, Status

MAJOR: Final = 3
PYTHONS: Final = ((3, 11), (3, 13))
"""The Python versions, first and last, whose SSLContext was looked into."""

_VERIFY_MODES: Final = {ssl.CERT_NONE: 0, ssl.CERT_OPTIONAL: 1, ssl.CERT_REQUIRED: 3}
"""SSL_VERIFY_PEER is 1, SSL_VERIFY_FAIL_IF_NO_PEER_CERT 2."""

Address = int | None
"""A pointer; None is NULL."""


class Param(ctypes.Structure):
    """OSSL_PARAM, core.h."""

    _fields_ = (
        ("key", c_char_p),
        ("data_type", c_uint),
        ("data", c_void_p),
        ("data_size", c_size_t),
        ("return_size", c_size_t),
    )
    key: bytes | None
    data_type: int
    data: Address
    data_size: int
    return_size: int


ProviderInit = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(c_void_p), POINTER(c_void_p))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSsl:
    """The functions, each called as in OpenSSL's manual."""

    lib_ctx_new: Callable[[], Address]
    provider_add_builtin: Callable[[Address, bytes, object], int]
    provider_load: Callable[[Address, bytes], Address]
    pkey_ctx_new_from_name: Callable[[Address, bytes, bytes | None], Address]
    pkey_ctx_free: Callable[[Address], None]
    pkey_fromdata_init: Callable[[Address], int]
    pkey_fromdata: Callable[[Address, object, int, object], int]
    pkey_free: Callable[[Address], None]
    pkey_ctx_set_rsa_padding: Callable[[Address, int], int]
    pkey_ctx_set_rsa_pss_saltlen: Callable[[Address, int], int]
    md_ctx_new: Callable[[], Address]
    md_ctx_free: Callable[[Address], None]
    digest_sign_init: Callable[[Address, object, bytes, Address, bytes | None, Address, Address], int]
    digest_sign: Callable[[Address, object, object, bytes, int], int]
    param_set_int: Callable[[object, int], int]
    param_set_utf8: Callable[[object, bytes], int]
    x509_from_der: Callable[[Address, object, int], Address]
    x509_free: Callable[[Address], None]
    stack_new: Callable[[], Address]
    stack_push: Callable[[Address, Address], int]
    stack_free: Callable[[Address], None]
    context_use: Callable[[Address, Address, Address, Address, int], int]
    context_options: Callable[[Address], int]
    context_security_level: Callable[[Address], int]
    context_verify_mode: Callable[[Address], int]
    clear_errors: Callable[[], None]
    last_error: Callable[[], int]
    error_text: Callable[[int, object, int], None]

    def errors(self) -> str:
        """What OpenSSL says went wrong last in this thread; its queue is empty then."""
        number = self.last_error()
        text = ctypes.create_string_buffer(256)
        self.error_text(number, text, len(text))
        self.clear_errors()
        return text.value.decode(errors="replace") if number else "no reason given"


@lru_cache(maxsize=1)
def openssl() -> OpenSsl:
    """The library. Raises RequestError (NOT_SUPPORTED), saying why it cannot be used."""
    if sys.implementation.name != "cpython" or not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        raise _refusal("this Python's SSLContext is not known to it")
    return functions(_library(getattr(_ssl, "__file__", "")))


def _library(path: str) -> ctypes.CDLL:
    """The libssl, and with it the libcrypto, that the ssl module at `path` is linked with."""
    if not path:
        raise _refusal("OpenSSL is built into this Python")
    try:
        library = ctypes.CDLL(path)
        told = library.OpenSSL_version
        major = library.OPENSSL_version_major
    except (OSError, AttributeError):
        raise _refusal("this Python's OpenSSL is older than 3, or linked so that it cannot be reached") from None
    told.restype, told.argtypes = c_char_p, (c_int,)
    major.restype, major.argtypes = c_uint, ()
    if told(0) != ssl.OPENSSL_VERSION.encode():
        raise _refusal("the OpenSSL found is another one than that of the ssl module")
    if major() != MAJOR:
        raise _refusal(f"{ssl.OPENSSL_VERSION} is not of the major version {MAJOR}")
    return library


def functions(library: ctypes.CDLL) -> OpenSsl:
    """What is used of a library. Raises RequestError (NOT_SUPPORTED) where it lacks something."""

    # What ctypes finds by name has no types; those of the fields of OpenSsl are written from the manual.
    def of(name: str, result: type | None, *arguments: type) -> Callable[..., Any]:
        try:
            function = getattr(library, name)
        except AttributeError:
            raise _refusal(f"its function {name} is missing") from None
        function.restype, function.argtypes = result, arguments
        found: Callable[..., Any] = function
        return found

    p = c_void_p
    return OpenSsl(
        lib_ctx_new=of("OSSL_LIB_CTX_new", p),
        provider_add_builtin=of("OSSL_PROVIDER_add_builtin", c_int, p, c_char_p, ProviderInit),
        provider_load=of("OSSL_PROVIDER_load", p, p, c_char_p),
        pkey_ctx_new_from_name=of("EVP_PKEY_CTX_new_from_name", p, p, c_char_p, c_char_p),
        pkey_ctx_free=of("EVP_PKEY_CTX_free", None, p),
        pkey_fromdata_init=of("EVP_PKEY_fromdata_init", c_int, p),
        pkey_fromdata=of("EVP_PKEY_fromdata", c_int, p, POINTER(p), c_int, POINTER(Param)),
        pkey_free=of("EVP_PKEY_free", None, p),
        pkey_ctx_set_rsa_padding=of("EVP_PKEY_CTX_set_rsa_padding", c_int, p, c_int),
        pkey_ctx_set_rsa_pss_saltlen=of("EVP_PKEY_CTX_set_rsa_pss_saltlen", c_int, p, c_int),
        md_ctx_new=of("EVP_MD_CTX_new", p),
        md_ctx_free=of("EVP_MD_CTX_free", None, p),
        digest_sign_init=of("EVP_DigestSignInit_ex", c_int, p, POINTER(p), c_char_p, p, c_char_p, p, p),
        digest_sign=of("EVP_DigestSign", c_int, p, p, POINTER(c_size_t), c_char_p, c_size_t),
        param_set_int=of("OSSL_PARAM_set_int", c_int, p, c_int),
        param_set_utf8=of("OSSL_PARAM_set_utf8_string", c_int, p, c_char_p),
        x509_from_der=of("d2i_X509", p, p, POINTER(c_char_p), c_long),
        x509_free=of("X509_free", None, p),
        stack_new=of("OPENSSL_sk_new_null", p),
        stack_push=of("OPENSSL_sk_push", c_int, p, p),
        stack_free=of("OPENSSL_sk_free", None, p),
        context_use=of("SSL_CTX_use_cert_and_key", c_int, p, p, p, p, c_int),
        context_options=of("SSL_CTX_get_options", c_uint64, p),
        context_security_level=of("SSL_CTX_get_security_level", c_int, p),
        context_verify_mode=of("SSL_CTX_get_verify_mode", c_int, p),
        clear_errors=of("ERR_clear_error", None),
        last_error=of("ERR_peek_last_error", ctypes.c_ulong),
        error_text=of("ERR_error_string_n", None, ctypes.c_ulong, c_char_p, c_size_t),
    )


def context_pointer(library: OpenSsl, context: ssl.SSLContext) -> int:
    """The SSL_CTX of an SSLContext: the first field of the object, after what every object has.

    Before it is used, what it points to has to tell three things of the context that ssl tells too.

    Raises RequestError (NOT_SUPPORTED) where it does not.
    """
    pointer = c_void_p.from_address(id(context) + object.__basicsize__).value
    if (
        not pointer
        or pointer % ctypes.alignment(c_void_p)
        or library.context_options(pointer) != int(context.options)
        or library.context_security_level(pointer) != context.security_level
        or library.context_verify_mode(pointer) != _VERIFY_MODES[context.verify_mode]
    ):
        raise _refusal("this Python's SSLContext is not known to it")
    return pointer


def _refusal(why: str) -> RequestError:
    return RequestError(
        Status.NOT_SUPPORTED,
        f"A key of the service cannot authenticate TLS connections of this Python: {why}. It needs CPython "
        f"{_version(PYTHONS[0])} to {_version(PYTHONS[1])} with a shared OpenSSL {MAJOR}, such as a distribution's.",
    )


def _version(number: tuple[int, int]) -> str:
    return ".".join(map(str, number))
