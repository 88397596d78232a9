"""Whatever a peer sends, est answers with its value or with an exception of its own, and with bounded memory."""

import base64

import pytest
from hypothesis import given, strategies

from est import oids
from est.asn1 import der
from est.asn1.csrattrs import Attribute, CsrAttrs, dump_csrattrs, parse_csrattrs
from est.csr.linking import challenge, same
from est.http.authorization import parse_challenges
from est.http.media_type import parse_media_type
from est.http.multipart import dump_multipart, parse_multipart
from est.http.payload import decode, encode
from est.http.retry_after import parse_retry_after
from hsmbridge.core.errors import HsmBridgeError
from tests.fuzz.est_messages import kinds

OIDS = strategies.sampled_from([oids.CHALLENGE_PASSWORD, oids.EC_PUBLIC_KEY, "2.5.29.17", "1.3.6.1.4.1.99999.1"])
VALUES = strategies.sampled_from([der.oid(oids.P256), der.integer(2048), der.octets(b"x")])
ATTRIBUTES = strategies.builds(
    Attribute, OIDS, strategies.lists(VALUES, max_size=2, unique=True).map(lambda v: tuple(sorted(v)))
)


KINDS = list(kinds())


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_reads_itself(kind: str) -> None:
    good, read = kinds()[kind]
    read(good)


# pyca still reads a serial number that RFC 5280 forbids, and says so.
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("kind", KINDS)
@given(data=strategies.data())
def test_a_changed_message_is_read_or_refused(kind: str, data: strategies.DataObject) -> None:
    good, read = kinds()[kind]
    changed = bytearray(good)
    for _ in range(data.draw(strategies.integers(1, 4))):
        changed[data.draw(strategies.integers(0, len(changed) - 1))] = data.draw(strategies.integers(0, 255))
    cut = data.draw(strategies.integers(0, len(changed)))
    for one in (bytes(changed), bytes(changed[:cut])):
        try:
            read(one)
        except HsmBridgeError:
            continue


@pytest.mark.parametrize("kind", KINDS)
@given(noise=strategies.binary(max_size=200))
def test_noise_is_refused(kind: str, noise: bytes) -> None:
    _, read = kinds()[kind]
    try:
        read(noise)
    except HsmBridgeError:
        return


@given(strategies.lists(OIDS | ATTRIBUTES, max_size=6))
def test_attributes_are_read_as_they_were_written(items: list[str | Attribute]) -> None:
    assert parse_csrattrs(dump_csrattrs(items)) == CsrAttrs(tuple(items))


@given(strategies.binary(max_size=500), strategies.integers(0, 100))
def test_a_payload_is_read_whatever_its_lines(content: bytes, wrap: int) -> None:
    payload = encode(content, wrap)
    assert decode(payload) == content
    assert decode(b" " + payload.replace(b"\n", b"\r\n\t") + b"\n ") == content


@given(strategies.binary(max_size=300))
def test_a_payload_of_noise_is_refused(noise: bytes) -> None:
    for lenient in (False, True):
        try:
            decode(noise, lenient=lenient)
        except HsmBridgeError:
            continue


@given(strategies.lists(strategies.binary(min_size=1, max_size=200), min_size=1, max_size=4))
def test_parts_are_read_as_they_were_written(contents: list[bytes]) -> None:
    type_, body = dump_multipart(("application/pkcs8", encode(one)) for one in contents)
    parts = parse_multipart(parse_media_type(type_), body)
    assert [decode(one.body) for one in parts] == contents
    assert {one.type.name for one in parts} == {"application/pkcs8"}


@given(strategies.binary(max_size=300), strategies.text(max_size=30))
def test_parts_of_noise_are_refused(noise: bytes, boundary: str) -> None:
    type_ = parse_media_type(f"multipart/mixed; boundary={boundary}")
    for body in (noise, b"--x\r\n" + noise + b"\r\n--x--"):
        for asked in (type_, parse_media_type("multipart/mixed; boundary=x")):
            try:
                parse_multipart(asked, body)
            except HsmBridgeError:
                continue


@given(strategies.text(max_size=200))
def test_headers_of_noise_harm_nothing(header: str) -> None:
    from datetime import UTC, datetime

    parse_challenges(header)
    parse_media_type(header)
    wait = parse_retry_after(header, datetime.now(UTC))
    assert wait is None or wait >= 0


@given(strategies.binary(min_size=1, max_size=64), strategies.text(max_size=64))
def test_a_link_fits_its_own_connection_only(binding: bytes, other: str) -> None:
    assert same(challenge(binding), binding)
    assert not same(other, binding) or base64.b64decode("".join(other.split())) == binding
