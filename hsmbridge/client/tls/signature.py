"""The provider's signatures: what libssl asks of a key in a handshake (EVP_DigestSignInit, EVP_DigestSign).

TLS 1.2 and 1.3 sign whole messages in one call, so there is no update; nor is there a signature over a bare digest,
which only protocols before TLS 1.2 have.
"""

import ctypes
from collections.abc import MutableSequence
from ctypes import c_int

from hsmbridge.client.tls import dispatch as d
from hsmbridge.client.tls.key_table import DIGESTS, Signing, keys, signings
from hsmbridge.client.tls.openssl import Address, Param

_NEWCTX, _DIGEST_SIGN_INIT, _DIGEST_SIGN, _FREECTX, _SET_CTX_PARAMS, _SETTABLE_CTX_PARAMS = 1, 8, 11, 16, 20, 21

SETTABLE = {
    b"pad-mode": d.UTF8_STRING,
    b"saltlen": d.UTF8_STRING,
    b"digest": d.UTF8_STRING,
    b"mgf1-digest": d.UTF8_STRING,
}
"""What libssl sets for RSASSA-PSS. The provider's own context is the address of this table: see `signature`."""

_PSS = (b"pss", 6)
"""The padding of PSS: its name, and its number in rsa.h; libcrypto gives one or the other."""
_PKCS1 = (b"pkcs1", 1)
_DIGEST_SALT = (b"digest", b"-1", -1)
"""A salt as long as the digest, RSA_PSS_SALTLEN_DIGEST."""


def signature() -> int:
    """The address of the dispatch table, the same for RSA and EC."""
    return d.dispatch_table(
        {
            _NEWCTX: d.callback(d.SignatureNew, _new, None),
            _DIGEST_SIGN_INIT: d.callback(d.DigestSignInit, _init),
            _DIGEST_SIGN: d.callback(d.DigestSign, _sign),
            _FREECTX: d.callback(d.Free, _free, None),
            _SET_CTX_PARAMS: d.callback(d.TakesParameters, _set_params),
            # Called with a signature and the provider's context, it answers the latter: that is the table.
            _SETTABLE_CTX_PARAMS: d.constant(d.Answer, {}),
        }
    )


def _new(_provider_context: Address, _properties: bytes | None) -> int:
    return signings.add(Signing())


def _free(number: Address) -> None:
    signings.drop(number)


def _init(number: Address, digest: bytes | None, key_number: Address, given: Address) -> int:
    """A digest that is not signed over fails here: libssl asks in this way which ones there are."""
    signing = signings.get(number)
    if key_number:
        signing.key = keys.get(key_number)
    if digest:
        signing.digest = DIGESTS[digest.upper()]
    return _set_params(number, given)


def _set_params(number: Address, given: Address) -> int:
    signing = signings.get(number)
    rows = d.parameters(given)
    if b"pad-mode" in rows:
        mode = _value(rows[b"pad-mode"])
        if mode not in _PSS + _PKCS1:
            return 0
        signing.pss = mode in _PSS
    if b"saltlen" in rows and _value(rows[b"saltlen"]) not in _DIGEST_SALT:
        return 0
    for name in (b"digest", b"mgf1-digest"):
        if name in rows and DIGESTS[str_of(rows[name]).upper()].name != signing.digest.name:
            return 0
    return 1


def _value(row: Param) -> bytes | int:
    if row.data_type == d.UTF8_STRING:
        return str_of(row)
    return c_int.from_address(row.data or 0).value if row.data else 0


def str_of(row: Param) -> bytes:
    """The text of a parameter, without the zero that may follow it."""
    return ctypes.string_at(row.data, row.data_size).partition(b"\0")[0] if row.data else b""


def _sign(
    number: Address,
    out: Address,
    size: MutableSequence[int],
    room: int,
    message: Address,
    length: int,
) -> int:
    signing = signings.get(number)
    key = signing.key
    if key is None:
        return 0
    if not out:
        size[0] = d.NO_SUCH_SIZE
        return 1
    try:
        made = key.sign(ctypes.string_at(message or 0, length), signing.digest, signing.pss)
        if len(made) > room:
            return 0
    except BaseException as problem:
        key.report(problem)
        raise
    key.report(None)
    ctypes.memmove(out, made, len(made))
    size[0] = len(made)  # last: until here, a success would be none
    return 1
