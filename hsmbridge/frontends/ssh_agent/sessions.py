"""session-bind@openssh.com (OpenSSH's PROTOCOL.agent): which SSH sessions a connection to the agent is used for.

`ssh` sends it before anything else, with the server's signature of the session id, and says whether the connection is
its own, to log in, or one that it forwards to the server. What is remembered is that: a connection that was ever
forwarded stays so. Host keys of kinds that cannot be verified here are answered with a failure, which `ssh` takes
calmly, and count as forwarded all the same where they say so.
"""

import base64
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

from hsmbridge.core.errors import WireError
from hsmbridge.wire.ssh_agent import DataReader, SessionBinding

_SESSIONS: Final = 16
"""Sessions of one connection, as in OpenSSH: one more for each machine that it is forwarded through."""
_SESSION_ID_MAX: Final = 128
_HASHES: Final[dict[bytes, type[HashAlgorithm]]] = {
    b"rsa-sha2-256": SHA256,
    b"rsa-sha2-512": SHA512,
    b"ecdsa-sha2-nistp256": SHA256,
    b"ecdsa-sha2-nistp384": SHA384,
    b"ecdsa-sha2-nistp521": SHA512,
}


class Sessions:
    """The sessions that one connection was bound to.

    Attributes:
        forwarded: it leads to another machine.
    """

    __slots__ = ("_ids", "_own", "forwarded")

    def __init__(self) -> None:
        self.forwarded = False
        self._own = False
        self._ids: list[bytes] = []

    def bind(self, binding: SessionBinding) -> bool:
        """Remember a binding; False where it is not accepted."""
        # Said by whoever holds the connection; believing it takes something away and gives nothing.
        self.forwarded = self.forwarded or binding.forwarding
        if (
            self._own
            or len(self._ids) >= _SESSIONS
            or not 1 <= len(binding.session_id) <= _SESSION_ID_MAX
            or binding.session_id in self._ids
            or not _signed_by_host(binding)
        ):
            return False
        self._ids.append(binding.session_id)
        # After a log-in's session nothing can follow.
        self._own = not binding.forwarding
        return True


def _signed_by_host(binding: SessionBinding) -> bool:
    try:
        return _verify(binding)
    except (InvalidSignature, UnsupportedAlgorithm, NotImplementedError, WireError, ValueError):
        # NotImplementedError is what the library has for a compressed point.
        return False


def _verify(binding: SessionBinding) -> bool:
    """Raises InvalidSignature, or ValueError and the like for what cannot be read."""
    kind = DataReader(binding.host_key).string()
    identity = load_ssh_public_identity(kind + b" " + base64.b64encode(binding.host_key))
    key = identity.public_key() if isinstance(identity, SSHCertificate) else identity
    outer = DataReader(binding.signature)
    name, signature = outer.string(), outer.string()
    outer.end()
    message = binding.session_id
    hash_ = _HASHES.get(name)
    match key:
        case ed25519.Ed25519PublicKey() if name == b"ssh-ed25519":
            key.verify(signature, message)
        case rsa.RSAPublicKey() if name.startswith(b"rsa-") and hash_ is not None:
            key.verify(signature, message, padding.PKCS1v15(), hash_())
        case ec.EllipticCurvePublicKey() if name.endswith(_CURVES.get(key.curve.name, b"?")) and hash_ is not None:
            inner = DataReader(signature)
            r, s = inner.string(), inner.string()
            inner.end()
            numbers = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
            key.verify(numbers, message, ec.ECDSA(hash_()))
        case _:
            return False
    return True


_CURVES: Final = {"secp256r1": b"-nistp256", "secp384r1": b"-nistp384", "secp521r1": b"-nistp521"}
