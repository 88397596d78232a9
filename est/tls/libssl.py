"""Two questions that Python's ssl module does not pass on to the libssl below it, asked through ctypes.

Whether a connection has the extended master secret (RFC 7627), without which tls-unique names nothing, and keying
material for tls-exporter (RFC 9266). CPython keeps the SSL pointer in its socket object; before it is used, what it
points to is asked for its protocol version, which ssl knows too. Where that does not fit, the answer is "cannot tell".
"""

import _ssl
import ctypes
import ssl
from functools import lru_cache

_GET_EXTMS_SUPPORT = 122
_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """The libssl in use, or None if it cannot be had."""
    try:
        library = ctypes.CDLL(_ssl.__file__)
        library.OpenSSL_version.restype = ctypes.c_char_p
        library.OpenSSL_version.argtypes = [ctypes.c_int]
        library.SSL_version.argtypes = [ctypes.c_void_p]
        library.SSL_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
        library.SSL_ctrl.restype = ctypes.c_long
        library.SSL_export_keying_material.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_int,
        ]
        same = library.OpenSSL_version(0) == ssl.OPENSSL_VERSION.encode()
    except (OSError, AttributeError):
        return None
    return library if same else None


def _pointer(sock: ssl.SSLSocket) -> tuple[ctypes.CDLL, int] | None:
    library = _library()
    inner = getattr(sock, "_sslobj", None)
    version = _VERSIONS.get(sock.version() or "")
    if library is None or inner is None or version is None:
        return None
    # PySSLSocket is { PyObject_HEAD; PyObject *Socket; SSL *ssl; ... }.
    offset = object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
    pointer = ctypes.c_void_p.from_address(id(inner) + offset).value
    if not pointer or library.SSL_version(pointer) != version:
        return None
    return library, pointer


def has_extended_master_secret(sock: ssl.SSLSocket) -> bool | None:
    """Whether a TLS 1.2 connection has it; None if it cannot be told."""
    found = _pointer(sock)
    if found is None:
        return None
    library, pointer = found
    return bool(library.SSL_ctrl(pointer, _GET_EXTMS_SUPPORT, 0, None) == 1)


def export_keying_material(sock: ssl.SSLSocket, label: bytes, length: int) -> bytes:
    """Keying material with an empty context (RFC 8446 section 7.5), or b"" if it cannot be had."""
    found = _pointer(sock)
    if found is None:
        return b""
    library, pointer = found
    out = ctypes.create_string_buffer(length)
    done = library.SSL_export_keying_material(pointer, out, length, label, len(label), b"", 0, 1)
    return out.raw if done == 1 else b""
