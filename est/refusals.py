"""How est refuses: the exceptions of `hsmbridge.core.errors`, under the words of this protocol.

What a peer sent and cannot be read is a WireError; a certificate that must not be used is a CertificateError; a
wish that cannot be granted is a RequestError. Messages name what was found and what to do about it.
"""

from hsmbridge.core.errors import HsmBridgeError, Status, error


def malformed(message: str) -> HsmBridgeError:
    """What the peer sent cannot be read."""
    return error(Status.MALFORMED_FRAME, message)


def unwanted(message: str) -> HsmBridgeError:
    """An argument, a setting or a demand makes no sense here."""
    return error(Status.INVALID_ARGUMENT, message)


def unsupported(message: str) -> HsmBridgeError:
    """The key, the library or this program cannot do what is asked."""
    return error(Status.NOT_SUPPORTED, message)


def invalid_certificate(message: str) -> HsmBridgeError:
    """The certificate does not fit what was asked for."""
    return error(Status.CERTIFICATE_INVALID, message)


def untrusted(message: str) -> HsmBridgeError:
    """No trust anchor vouches for it."""
    return error(Status.CERTIFICATE_NOT_TRUSTED, message)


def denied(message: str) -> HsmBridgeError:
    """Not allowed, by the peer or by policy."""
    return error(Status.ACCESS_DENIED, message)


def too_large(message: str) -> HsmBridgeError:
    """More than the limit."""
    return error(Status.DATA_TOO_LARGE, message)


def too_many(message: str) -> HsmBridgeError:
    """More at a time than one may have."""
    return error(Status.RATE_LIMITED, message)


def timed_out(message: str) -> HsmBridgeError:
    """The deadline passed."""
    return error(Status.OPERATION_TIMED_OUT, message)


def unreachable(message: str, *, origin: str = "") -> HsmBridgeError:
    """No connection to the server, or it broke."""
    return error(Status.CONNECTION_LOST, message, origin=origin)


def absent(message: str) -> HsmBridgeError:
    """No such thing."""
    return error(Status.RESOURCE_NOT_FOUND, message)


def named(status: str, message: str) -> HsmBridgeError:
    """What another program answered, by the name of its status; a name that is not known is MALFORMED_FRAME."""
    known = Status.__members__.get(status, Status.MALFORMED_FRAME)
    return error(known, message)
