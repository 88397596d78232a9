"""A slot that names no algorithms: an AES key gets one mode for each thing it may do."""

import pytest

from hsmbridge.core.algorithms import ALGORITHMS, Kind, algorithm
from hsmbridge.core.calls import Claim, Description, TokenIdentity
from hsmbridge.core.key_types import KEY_TYPES, Family, key_type
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import Protection
from hsmbridge.service.default_algorithms import default_algorithms


def offering(*names: str) -> Description:
    return Description(
        scheme="toy",
        token=TokenIdentity("toy", "1"),
        key_types=tuple(KEY_TYPES),
        imports=(),
        claims=tuple(Claim(name, tuple(algorithm(name).operations)) for name in names),
        random=False,
        lists=False,
        protection=Protection.TOKEN,
    )


EVERYTHING = offering(*ALGORITHMS)


def test_an_aes_key_that_encrypts_does_so_in_one_authenticated_mode() -> None:
    assert default_algorithms(key_type("AES-256"), P.ENCRYPT | P.DECRYPT, [EVERYTHING]) == ("AES-256-GCM",)


def test_what_the_provider_does_not_offer_is_not_the_default() -> None:
    tpm = offering("AES-128-CFB")
    assert default_algorithms(key_type("AES-128"), P.ENCRYPT | P.DECRYPT, [tpm]) == ("AES-128-CFB",)


def test_a_provider_that_was_never_seen_gets_the_first_of_the_table() -> None:
    assert default_algorithms(key_type("AES-128"), P.ENCRYPT, [None]) == ("AES-128-GCM",)


def test_each_use_of_an_aes_key_gets_one_algorithm_and_wrapping_both_that_are_made_for_it() -> None:
    names = default_algorithms(key_type("AES-256"), P.ENCRYPT | P.DECRYPT | P.SIGN | P.VERIFY, [EVERYTHING])
    assert names == ("AES-256-GCM", "AES-CMAC")
    assert default_algorithms(key_type("AES-256"), P.WRAP | P.UNWRAP, [EVERYTHING]) == ("AES-256-KW", "AES-256-KWP")


@pytest.mark.parametrize("name", [row.name for row in KEY_TYPES.values() if row.family is not Family.AES])
def test_other_keys_may_be_used_with_all_that_takes_them(name: str) -> None:
    assert default_algorithms(key_type(name), ~P.NONE, [EVERYTHING]) == ()


@pytest.mark.parametrize("name", [row.name for row in KEY_TYPES.values() if row.family is Family.AES])
def test_no_two_defaults_of_a_key_encrypt(name: str) -> None:
    kinds = [algorithm(chosen).kind for chosen in default_algorithms(key_type(name), ~P.NONE, [EVERYTHING])]
    assert sum(kind in {Kind.AEAD, Kind.CIPHER} for kind in kinds) == 1
