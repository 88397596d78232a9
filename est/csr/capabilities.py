"""SMIMECapabilities (RFC 8551 section 2.5.2) in a request: what the key that shall receive something can open.

SMIMECapabilities ::= SEQUENCE OF SEQUENCE { capabilityID OBJECT IDENTIFIER, parameters ANY OPTIONAL }
"""

from collections.abc import Sequence
from typing import ClassVar

from asn1crypto import algos, core

from est import oids
from est.asn1 import der
from est.cms.transport import OAEP_DIGESTS, oaep_parameters


class _Capability(der.Sequence):
    _fields: ClassVar[list[tuple[object, ...]]] = [
        ("id", core.ObjectIdentifier),
        ("parameters", core.Any, {"optional": True}),
    ]


class _Capabilities(der.SequenceOf):
    _child_spec = _Capability


def dump_capabilities(oaep: Sequence[str]) -> bytes:
    """AES-256-CBC, AES-128-CBC, and RSAES-OAEP with each of the digests."""
    written = _Capabilities([{"id": oids.AES256_CBC}, {"id": oids.AES128_CBC}])
    for digest in oaep:
        parameters = core.Any.load(algos.RSAESOAEPParams(oaep_parameters(digest)).dump())
        written.append(_Capability({"id": oids.RSAES_OAEP, "parameters": parameters}))
    return bytes(written.dump())


def oaep_digest(capabilities: bytes) -> str:
    """The digest for RSAES-OAEP that a request leaves us; SHA-256 where it says nothing of it.

    Raises:
        WireError: the capabilities cannot be read.
    """

    def take() -> set[str]:
        return {
            str(algos.RSAESOAEPParams.load(one["parameters"].dump())["hash_algorithm"]["algorithm"].native)
            for one in _Capabilities.load(capabilities, strict=True)
            if str(one["id"].dotted) == oids.RSAES_OAEP
        }

    listed = der.read("SMIMECapabilities", capabilities, take) if capabilities else set()
    return next((one for one in OAEP_DIGESTS if one in listed), next(iter(OAEP_DIGESTS)))
