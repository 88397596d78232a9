"""What new keys get of what templates ask for: less by default, nothing at all where the configuration refuses."""

import pytest

from hsmbridge.core.key_types import KEY_TYPES, KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.frontends.p11kit.numbers import Cka, Ckm, Cko, Ckr
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.settings import TemplatePolicy
from hsmbridge.frontends.p11kit.templates import Template, pair_type, secret_type, table, wanted
from hsmbridge.wire.p11kit_attributes import Attribute

RSA, EC, AES = KEY_TYPES["RSA-2048"], KEY_TYPES["EC-P256"], KEY_TYPES["AES-256"]
BY_HABIT: dict[Cko, Template] = {
    Cko.PUBLIC_KEY: {Cka.ENCRYPT: 1, Cka.VERIFY: 1, Cka.WRAP: 1, Cka.TOKEN: 1},
    Cko.PRIVATE_KEY: {Cka.DECRYPT: 1, Cka.SIGN: 1, Cka.UNWRAP: 1, Cka.TOKEN: 1},
}
CIPHER_BY_HABIT: dict[Cko, Template] = {
    Cko.SECRET_KEY: {Cka.ENCRYPT: 1, Cka.DECRYPT: 1, Cka.WRAP: 1, Cka.UNWRAP: 1, Cka.TOKEN: 1}
}
ATTENUATE, REFUSE = TemplatePolicy.ATTENUATE, TemplatePolicy.REFUSE


def test_an_rsa_key_by_habit_signs_and_decrypts_and_does_not_wrap() -> None:
    want = wanted(RSA, BY_HABIT, ATTENUATE)
    assert want.permissions == P.SIGN | P.VERIFY | P.ENCRYPT | P.DECRYPT
    assert want.sign_and_decrypt


def test_an_rsa_key_that_does_not_last_signs_only() -> None:
    passing = {kind: {**template, Cka.TOKEN: 0} for kind, template in BY_HABIT.items()}
    want = wanted(RSA, passing, ATTENUATE)
    assert want.permissions == P.SIGN | P.VERIFY
    assert not want.sign_and_decrypt


def test_an_aes_key_by_habit_encrypts_and_does_not_wrap() -> None:
    assert wanted(AES, CIPHER_BY_HABIT, ATTENUATE).permissions == P.ENCRYPT | P.DECRYPT


@pytest.mark.parametrize(
    ("row", "templates"),
    [
        (RSA, BY_HABIT),
        (AES, CIPHER_BY_HABIT),
        (AES, {Cko.SECRET_KEY: {Cka.ENCRYPT: 1, Cka.DERIVE: 1}}),
        (EC, {Cko.PUBLIC_KEY: {}, Cko.PRIVATE_KEY: {Cka.SIGN: 1, Cka.SENSITIVE: 0}}),
    ],
    ids=["RSA", "AES", "AES that derives", "not sensitive"],
)
def test_where_templates_are_refused_too_much_is_inconsistent(row: KeyType, templates: dict[Cko, Template]) -> None:
    with pytest.raises(Refused) as refused:
        wanted(row, templates, REFUSE)
    assert refused.value.ckr is Ckr.TEMPLATE_INCONSISTENT


def test_wrapping_keys_are_made_where_they_are_asked_for_alone() -> None:
    template: dict[Cko, Template] = {Cko.SECRET_KEY: {Cka.WRAP: 1, Cka.UNWRAP: 1}}
    for policy in TemplatePolicy:
        assert wanted(AES, template, policy).permissions == P.WRAP | P.UNWRAP


def test_a_key_from_outside_never_wraps() -> None:
    template: dict[Cko, Template] = {Cko.SECRET_KEY: {Cka.WRAP: 1, Cka.ENCRYPT: 1}}
    assert wanted(AES, template, ATTENUATE, from_outside=True).permissions == P.ENCRYPT


def test_the_half_that_names_no_use_gets_what_goes_with_the_other() -> None:
    half: dict[Cko, Template] = {Cko.PUBLIC_KEY: {}, Cko.PRIVATE_KEY: {Cka.SIGN: 1}}
    assert wanted(EC, half, REFUSE).permissions == P.SIGN | P.VERIFY
    nothing: dict[Cko, Template] = {Cko.PUBLIC_KEY: {}, Cko.PRIVATE_KEY: {}}
    assert wanted(EC, nothing, REFUSE).permissions == P.SIGN | P.VERIFY


def test_a_key_to_be_wrapped_by_trusted_keys_only_is_not_wrapped_at_all() -> None:
    template: dict[Cko, Template] = {Cko.SECRET_KEY: {Cka.ENCRYPT: 1, Cka.EXTRACTABLE: 1}}
    assert P.EXPORT in wanted(AES, template, ATTENUATE).permissions
    guarded: dict[Cko, Template] = {Cko.SECRET_KEY: {**template[Cko.SECRET_KEY], Cka.WRAP_WITH_TRUSTED: 1}}
    assert P.EXPORT not in wanted(AES, guarded, ATTENUATE).permissions


@pytest.mark.parametrize("policy", list(TemplatePolicy))
@pytest.mark.parametrize(
    ("attribute", "value", "ckr"),
    [
        (Cka.TRUSTED, 1, Ckr.ATTRIBUTE_READ_ONLY),
        (Cka.ALWAYS_AUTHENTICATE, 1, Ckr.TEMPLATE_INCONSISTENT),
        (Cka.CLASS, Cko.PUBLIC_KEY, Ckr.TEMPLATE_INCONSISTENT),
        (Cka.KEY_TYPE, 0x10, Ckr.TEMPLATE_INCONSISTENT),
        (Cka.END_DATE, b"20300101", Ckr.ATTRIBUTE_VALUE_INVALID),
        (Cka.ID, 5, Ckr.ATTRIBUTE_VALUE_INVALID),
    ],
)
def test_what_nobody_can_have_is_refused_whatever_the_policy(
    policy: TemplatePolicy, attribute: Cka, value: int | bytes, ckr: Ckr
) -> None:
    with pytest.raises(Refused) as refused:
        wanted(AES, {Cko.SECRET_KEY: {Cka.ENCRYPT: 1, attribute: value}}, policy)
    assert refused.value.ckr is ckr


def test_key_types_come_from_templates() -> None:
    p384 = bytes.fromhex("06052b81040022")
    assert pair_type(0x1040, {Cka.EC_PARAMS: p384}).name == "EC-P384"
    assert pair_type(0x0, {Cka.MODULUS_BITS: 3072, Cka.PUBLIC_EXPONENT: b"\1\0\1"}).name == "RSA-3072"
    assert secret_type({}, 0x1F, 16).name == "AES-128"
    assert secret_type({Cka.KEY_TYPE: 0x2B}, 0x10, None).name == "HMAC-SHA256"


@pytest.mark.parametrize(
    ("mechanism", "template", "ckr"),
    [
        (0x1040, {}, Ckr.TEMPLATE_INCOMPLETE),
        (0x1040, {Cka.EC_PARAMS: bytes.fromhex("06082a8648ce3d030101")}, Ckr.ATTRIBUTE_VALUE_INVALID),
        (0x1040, {Cka.EC_PARAMS: b"\x30\x03abc"}, Ckr.ATTRIBUTE_VALUE_INVALID),
        (0x0, {}, Ckr.TEMPLATE_INCOMPLETE),
        (0x0, {Cka.MODULUS_BITS: 1024}, Ckr.KEY_SIZE_RANGE),
        (0x0, {Cka.MODULUS_BITS: 2048, Cka.PUBLIC_EXPONENT: b"\1"}, Ckr.ATTRIBUTE_VALUE_INVALID),
    ],
)
def test_weak_and_unknown_keys_are_not_made(mechanism: int, template: Template, ckr: Ckr) -> None:
    with pytest.raises(Refused) as refused:
        pair_type(mechanism, template)
    assert refused.value.ckr is ckr


def test_an_attribute_stands_in_a_template_once() -> None:
    with pytest.raises(Refused):
        table((Attribute(Cka.SIGN, 1), Attribute(Cka.SIGN, 0)))


def test_allowed_mechanisms_become_the_algorithms_that_the_key_allows() -> None:
    def algorithms(row: KeyType, *mechanisms: int) -> tuple[str, ...]:
        key: Template = {Cka.SIGN: 1, Cka.TOKEN: 1, Cka.ALLOWED_MECHANISMS: mechanisms}
        return wanted(row, {Cko.PUBLIC_KEY: {Cka.VERIFY: 1}, Cko.PRIVATE_KEY: key}, ATTENUATE).algorithms

    pkcs1 = ("RSA-PKCS1-SHA256", "RSA-PKCS1-SHA384", "RSA-PKCS1-SHA512")
    assert algorithms(RSA, Ckm.RSA_PKCS) == (*pkcs1, "RSA-PKCS1")
    assert algorithms(RSA, Ckm.RSA_PKCS, _SHA1_RSA_PKCS) == (*pkcs1, "RSA-PKCS1-SHA1", "RSA-PKCS1"), "SHA-1 by name"
    assert algorithms(EC, Ckm.ECDSA) == ("ECDSA-P256-SHA256",)
    assert algorithms(EC) == ()
    with pytest.raises(Refused):
        algorithms(EC, Ckm.RSA_PKCS)


_SHA1_RSA_PKCS = 0x06
