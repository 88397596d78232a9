"""Whatever bytes come as certificates: read or refused, never a crash; and what was stored is what comes back."""

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hsmbridge.client.key_formats.certificates import certificate_pem, certificates_in, crl_in, crl_pem
from hsmbridge.core.certificates import CertificatePurpose, RevocationCheck
from hsmbridge.core.errors import CertificateError, HsmBridgeError, LimitError, RequestError
from hsmbridge.service.certificate_reading import read_anchors, read_certificate, read_chain, read_crl
from hsmbridge.service.certificate_verification import time_of, verify_chain
from tests.unit.service.pki import Authority

_ROOT = Authority("Root")
_ISSUING = Authority("Issuing", parent=_ROOT)
_LEAF = _ISSUING.issue()
_CRL = _ROOT.crl(1, 2, 3)
_REFUSALS = (CertificateError, LimitError, RequestError)

# pyca still reads a serial number that RFC 5280 forbids, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Something that begins as a real one and has bytes changed, taken away or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(("change", "cut", "insert"))):
            case "change":
                data[position : position + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del data[position : position + draw(st.integers(1, 40))]
            case _:
                data[position:position] = draw(st.binary(min_size=1, max_size=20))
    return bytes(data)


def test_a_serial_number_below_zero_is_read_as_one() -> None:
    serial = read_certificate(_LEAF).certificate.serial_number
    size = serial.bit_length() // 8 + 1
    below = (serial - (1 << 8 * size - 1)).to_bytes(size, "big", signed=True)
    changed = _LEAF.replace(serial.to_bytes(size, "big"), below, 1)
    assert read_certificate(changed).facts.serial.startswith("-")


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400) | damaged(_LEAF) | damaged(_ROOT.der))
def test_any_bytes_are_a_certificate_or_a_refusal(data: bytes) -> None:
    for read in (read_certificate, lambda der: read_chain([der, _ISSUING.der]), lambda der: read_anchors([der])):
        with contextlib.suppress(*_REFUSALS):
            read(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400) | damaged(_CRL))
def test_any_bytes_are_a_crl_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(*_REFUSALS):
        read_crl(data)


@settings(max_examples=200, deadline=None)
@given(damaged(_LEAF), st.sampled_from(CertificatePurpose), st.text(max_size=30) | st.just("host.example"))
def test_a_damaged_certificate_is_never_trusted(data: bytes, purpose: CertificatePurpose, subject: str) -> None:
    if data == _LEAF:
        return
    with pytest.raises(HsmBridgeError):
        verify_chain(
            read_chain([data]),
            read_anchors([_ROOT.der]),
            purpose,
            subject=subject,
            time=time_of(0),
            intermediates=read_chain([_ISSUING.der]),
            crls=(),
            revocation=RevocationCheck.CHAIN,
        )


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300)
    | damaged(certificate_pem(_LEAF, _ROOT.der).encode())
    | st.lists(
        st.sampled_from([b"-----BEGIN ", b"-----END ", b"CERTIFICATE", b"-----", b"\n", b"MAA=", b"PRIVATE KEY"])
    ).map(b"".join)
)
def test_any_file_is_certificates_or_a_refusal(data: bytes) -> None:
    for read in (certificates_in, crl_in):
        with contextlib.suppress(*_REFUSALS):
            read(data)


@settings(max_examples=100, deadline=None)
@example([b"-----BEGIN "], b"")
@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=8),
    st.binary(max_size=50).filter(lambda text: b"-----BEGIN " not in text),
)
def test_a_bundle_comes_back_as_it_was_written_whatever_stands_around_it(contents: list[bytes], text: bytes) -> None:
    parts = [b"\x30\x82" + len(content).to_bytes(2) + content for content in contents]
    assert certificates_in(text + b"\n" + certificate_pem(*parts).encode() + text) == tuple(parts)
    assert certificates_in(b"".join(parts)) == tuple(parts)
    assert crl_in(crl_pem(parts[0]).encode()) == parts[0]


@pytest.mark.parametrize("label", ["PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
def test_a_file_with_a_private_key_is_refused_before_anything_is_sent(label: str) -> None:
    key = f"-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n"
    for file in (certificate_pem(_LEAF) + key, key + certificate_pem(_LEAF)):
        with pytest.raises(CertificateError, match="private key"):
            certificates_in(file.encode())
