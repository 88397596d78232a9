"""The provider itself, in a library context of its own: nothing of it is seen by other users of OpenSSL in the process.

It is registered once and stays: OpenSSL calls it as long as a key of it is in some SSLContext. It has no teardown
function, because OpenSSL would call that after the interpreter ended.
"""

import ctypes
from collections.abc import MutableSequence
from functools import lru_cache
from threading import Lock
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from hsmbridge.client.tls import dispatch as d
from hsmbridge.client.tls.key_management import KEY_NUMBER, key_management
from hsmbridge.client.tls.key_table import ProvidedKey, arriving
from hsmbridge.client.tls.openssl import Address, Param, ProviderInit, openssl
from hsmbridge.client.tls.signature import SETTABLE, signature
from hsmbridge.core.errors import RequestError, Status

_NAME: Final = b"hsmbridge"
_QUERY_OPERATION: Final = 1027
_KEY_MANAGEMENT, _SIGNATURE = 10, 12
_KEY_PAIR: Final = 0x87
"""EVP_PKEY_KEYPAIR."""

_RSA: Final = b"RSA:rsaEncryption:1.2.840.113549.1.1.1"
_EC: Final = b"EC:id-ecPublicKey:1.2.840.10045.2.1"
_Out = MutableSequence[int]
"""A pointer that a callback sets the item 0 of."""
_making = Lock()


@lru_cache(maxsize=1)
def _library_context() -> int:
    """The library context with the provider in it. Raises RequestError (NOT_SUPPORTED)."""
    library = openssl()
    provider_context = d.parameter_table(SETTABLE)
    management, signatures = key_management(library, provider_context), signature()
    tables = {
        _KEY_MANAGEMENT: d.algorithm_table([(_RSA, management), (_EC, management)]),
        # Named as the keys are, so that libcrypto finds the signature of a key without asking.
        _SIGNATURE: d.algorithm_table([(_RSA, signatures), (_EC, signatures)]),
    }

    def query(_provider_context: Address, operation: int, _no_cache: Address) -> int | None:
        return tables.get(operation)

    functions = d.dispatch_table({_QUERY_OPERATION: d.callback(d.Query, query, None)})

    def initialise(_handle: Address, _in: Address, out: _Out, context: _Out) -> int:
        out[0] = functions
        context[0] = provider_context
        return 1

    start = ProviderInit(d.Guarded(initialise, 0))
    d.keep(start)
    context = library.lib_ctx_new()
    if (
        not context
        or library.provider_add_builtin(context, _NAME, start) != 1
        or not library.provider_load(context, _NAME)
    ):
        raise RequestError(Status.NOT_SUPPORTED, f"OpenSSL does not take a provider: {library.errors()}.")
    return context


def make_pkey(key: ProvidedKey) -> int:
    """An EVP_PKEY that signs with `key`; `pkey_free` gives it back. Raises RequestError (NOT_SUPPORTED)."""
    library = openssl()
    with _making:
        context = _library_context()
    name = b"EC" if isinstance(key.private_key, ec.EllipticCurvePrivateKey) else b"RSA"
    number = arriving.add(key)
    data = ctypes.create_string_buffer(number.to_bytes(8, "big"), 8)
    given = (Param * 2)(Param(KEY_NUMBER, d.OCTET_STRING, ctypes.addressof(data), len(data), 0))
    made = ctypes.c_void_p()
    maker = library.pkey_ctx_new_from_name(context, name, None)
    try:
        if (
            not maker
            or library.pkey_fromdata_init(maker) != 1
            or library.pkey_fromdata(maker, ctypes.byref(made), _KEY_PAIR, given) != 1
            or not made.value
        ):
            raise RequestError(Status.NOT_SUPPORTED, f"OpenSSL does not take the key: {library.errors()}.")
    finally:
        arriving.drop(number)
        library.pkey_ctx_free(maker)
    return made.value
