"""What no program of good will sends: it is refused like anything else that cannot be read."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from est.ca.authority import new_root
from est.cms.certs_only import load_certificate
from est.csr.demands import Demands
from est.csr.request import Wishes, plan, sign_request
from est.http.authorization import check_answer
from est.server.messages import Peer
from hsmbridge.core.errors import WireError
from tests.integration.est.lab import ec_key, make_site, named


def _of_bits(der: bytes) -> bytes:
    """A message whose name "abcd" is a BIT STRING in place of text."""
    changed = der.replace(b"\x0c\x04abcd", b"\x03\x04\x00\x01\x02\x03")
    assert changed != der
    return changed


def test_a_digest_answer_that_is_not_ascii_is_no_answer() -> None:
    header = 'Digest username="device", realm="est", nonce="n", uri="/x", qop=auth, nc=1, cnonce="c", response="\xe9"'
    assert check_answer(header, {"device": "secret"}, "est", {"n"}, "POST", "/x") == ""


def test_a_name_of_bits_is_refused_in_a_request_and_in_a_certificate() -> None:
    key = ec_key()
    wishes = Wishes(_of_bits(named("abcd").subject))
    request = sign_request(plan(wishes, Demands(), key.signer.public_key()), key)
    with pytest.raises(WireError, match="PKCS#10"):
        make_site().service.checked_request(request, Peer())
    with pytest.raises(WireError, match="certificate cannot be read"):
        load_certificate(_of_bits(new_root(key, "abcd").certificate.public_bytes(Encoding.DER)))
