"""Permissions, names and parameters: what is refused, and with which words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.identifiers import (
    QualifiedName,
    check_principal,
    check_provider_name,
    parse_slot_name,
)
from hsmbridge.core.params import AgreeKeyParams, DeriveKeyParams, GenerateKeyParams, Hkdf, Pbkdf2, SignatureParameters
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import (
    check_separation,
    permission_names,
    permissions_from_bits,
    permissions_from_names,
)


@given(st.sets(st.sampled_from(list(P))))
def test_names_and_bits_of_permissions_are_the_same_thing(bits: set[P]) -> None:
    permissions = P.NONE
    for bit in bits:
        permissions |= bit
    assert permissions_from_names(permission_names(permissions)) == permissions
    assert permissions_from_bits(int(permissions)) == permissions


@given(st.integers(min_value=1 << 11, max_value=(1 << 32) - 1))
def test_unknown_permission_bits_are_refused(bits: int) -> None:
    with pytest.raises(RequestError) as refused:
        permissions_from_bits(bits)
    assert refused.value.status is Status.INVALID_PERMISSIONS


def test_a_permission_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="'sign'"):
        permissions_from_names(["sgin"])


@pytest.mark.parametrize(
    "pair", [P.WRAP | P.DECRYPT, P.UNWRAP | P.ENCRYPT, P.WRAP | P.DECRYPT | P.SIGN, ~P.NONE], ids=str
)
def test_permissions_that_take_wrapped_keys_apart_are_refused_on_one_key(pair: P) -> None:
    with pytest.raises(RequestError) as refused:
        check_separation(pair)
    assert refused.value.status is Status.INVALID_PERMISSIONS


def test_an_rsa_key_signs_or_decrypts_unless_its_slot_says_both() -> None:
    check_separation(P.SIGN | P.DECRYPT)
    with pytest.raises(RequestError, match="sign_and_decrypt"):
        check_separation(P.SIGN | P.DECRYPT, rsa=True)
    check_separation(P.SIGN | P.DECRYPT, rsa=True, sign_and_decrypt=True)


@given(st.text(max_size=100), st.just("uid:7"))
def test_a_slot_name_is_taken_apart_or_refused_with_one_status(text: str, principal: str) -> None:
    outcome: QualifiedName | Status
    try:
        outcome = parse_slot_name(text, principal)
    except HsmBridgeError as refused:
        outcome = refused.status
    assert outcome is Status.INVALID_NAME or str(outcome) == (text if "/" in text else f"uid-7/{text}")


def test_a_short_name_is_in_the_callers_own_namespace() -> None:
    assert parse_slot_name("web", "uid:7") == QualifiedName("uid-7", "web")
    assert parse_slot_name("team/web", "uid:7") == QualifiedName("team", "web")


@pytest.mark.parametrize("name", ["", "-web", "a" * 65, "a b", "web\n", "a/b/c", "../web", "wéb"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_slot_name(name, "uid:7")
    assert refused.value.status is Status.INVALID_NAME


def test_a_name_that_is_too_long_says_how_long_it_is_and_is_never_cut() -> None:
    with pytest.raises(RequestError, match="has 65 characters"):
        parse_slot_name("a" * 65, "uid:7")


def test_a_provider_name_has_at_most_32_characters() -> None:
    assert check_provider_name("p" * 32)
    with pytest.raises(RequestError):
        check_provider_name("p" * 33)


@pytest.mark.parametrize("principal", ["", "root", "uid:", "uid:-1", "uid:01", "uid:1 ", "gid:1"])
def test_what_is_no_principal_is_refused(principal: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_principal(principal)
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_parameters_are_checked_when_they_are_built() -> None:
    assert GenerateKeyParams(key_type="EC-P256", permissions=P.SIGN).allowed is P.SIGN
    with pytest.raises(RequestError) as refused:
        GenerateKeyParams(key_type="EC-P257", permissions=P.SIGN)
    assert refused.value.status is Status.UNKNOWN_KEY_TYPE
    with pytest.raises(RequestError) as refused:
        GenerateKeyParams(key_type="Ed25519", permissions=P.WRAP)
    assert refused.value.status is Status.INVALID_PERMISSIONS


def test_kdf_parameters_fit_the_function_that_they_name() -> None:
    DeriveKeyParams(key_type="AES-256", permissions=P.ENCRYPT, kdf=Pbkdf2(salt=b"", iterations=1))
    with pytest.raises(RequestError, match="Hkdf"):
        AgreeKeyParams(
            key_type="AES-256", permissions=P.ENCRYPT, peer_public_key=b"", kdf=Hkdf(algorithm="PBKDF2-HMAC-SHA256")
        )


def test_a_signature_context_has_at_most_255_bytes() -> None:
    SignatureParameters(context=bytes(255))
    with pytest.raises(RequestError):
        SignatureParameters(context=bytes(256))
