"""PKCS#11 URIs: what is written is read again, and whatever is read raises nothing but a refusal."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hsmbridge.core.calls import TokenIdentity
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.pkcs11_uri import OBJECT_TYPES, Pkcs11Uri, format_uri, key_uri, parse_uri, token_uri

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
_optional = st.none() | _text
uris = st.builds(
    Pkcs11Uri,
    model=_optional,
    manufacturer=_optional,
    serial=_optional,
    token=_optional,
    library_manufacturer=_optional,
    library_version=_optional,
    library_description=_optional,
    slot_manufacturer=_optional,
    slot_description=_optional,
    slot_id=st.none() | st.integers(0, 2**64 - 1),
    object=_optional,
    type=st.none() | st.sampled_from(sorted(OBJECT_TYPES)),
    id=st.none() | st.binary(min_size=1, max_size=32),
    module_path=_optional,
    module_name=_optional,
    pin_source=_optional,
)
_RFC_7512 = frozenset(string.ascii_letters + string.digits + "-._~" + ":[]@!$'()*+,=" + "&;?/|%")


@given(uris)
def test_what_is_written_is_read_again(uri: Pkcs11Uri) -> None:
    written = format_uri(uri)
    assert parse_uri(written) == uri
    assert set(written) <= _RFC_7512
    assert format_uri(parse_uri(written)) == written


@given(st.text())
@example("pkcs11:")
@example("pkcs11:;")
@example("pkcs11:?")
@example("pkcs11:token=a;token=b")
@example("pkcs11:token=%")
@example("pkcs11:token=%g0")
@example("pkcs11:slot-id=1e3")
@example("pkcs11:slot-id=" + "9" * 5000)
@example("pkcs11:id=")
def test_any_text_is_read_or_refused(text: str) -> None:
    for candidate in (text, "pkcs11:" + text, "pkcs11:token=" + text, "pkcs11:?module-path=" + text):
        try:
            uri = parse_uri(candidate)
        except RequestError:
            continue
        assert parse_uri(format_uri(uri)) == uri


@given(_text)
def test_a_pin_in_a_uri_is_refused_and_not_repeated(pin: str) -> None:
    for uri in (f"pkcs11:token=a?pin-value=zq{pin}zq", f"pkcs11:pin-value=zq{pin}zq"):
        with pytest.raises(RequestError) as refusal:
            parse_uri(uri)
        assert f"zq{pin}zq" not in refusal.value.message


@given(_text, _text, st.text(max_size=10).map(lambda text: text.replace("\0", "")), st.binary(min_size=16, max_size=16))
def test_a_key_is_named_by_its_token_and_id(label: str, serial: str, model: str, key_id: bytes) -> None:
    token = TokenIdentity(label, serial, "", model)
    named = parse_uri(key_uri(token, key_id))
    assert (named.token, named.serial, named.model, named.id) == (label, serial, model or None, key_id)
    assert (named.type, named.manufacturer) == ("private", None)
    assert parse_uri(token_uri(token)).id is None


def test_the_examples_of_rfc_7512_are_read() -> None:
    uri = parse_uri(
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
        "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=".removesuffix(";serial=")
        + "?pin-source=file:/etc/token_pin"
    )
    assert uri == Pkcs11Uri(
        token="The Software PKCS#11 Softtoken",
        manufacturer="Snake Oil, Inc.",
        model="1.0",
        object="my-certificate",
        type="cert",
        id=bytes.fromhex("69953e5cf4bdec91"),
        pin_source="file:/etc/token_pin",
    )
    assert parse_uri("pkcs11:slot-id=327;library-version=1.2") == Pkcs11Uri(slot_id=327, library_version="1.2")
    assert parse_uri("PKCS11:object=a%3bb").object == "a;b"
    assert parse_uri("pkcs11:") == Pkcs11Uri()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not begin"),
        ("http://token", "does not begin"),
        ("pkcs11:token=a;token=b", "twice"),
        ("pkcs11:token", "no value"),
        ("pkcs11:tokens=a", "did you mean 'token'"),
        ("pkcs11:module-path=/m.so", "behind the '\\?'"),
        ("pkcs11:?token=a", "before the '\\?'"),
        ("pkcs11:token=a b", "percent-encoded"),
        ("pkcs11:token=a/b", "percent-encoded"),
        ("pkcs11:token=%ff", "UTF-8"),
        ("pkcs11:token=%00", "NUL"),
        ("pkcs11:type=key", "one of"),
        ("pkcs11:slot-id=-1", "decimal"),
        ("pkcs11:?x-mine=1", "no attribute"),
    ],
)
def test_a_refusal_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(RequestError, match=why) as refusal:
        parse_uri(text)
    assert refusal.value.status is Status.INVALID_CONFIGURATION
