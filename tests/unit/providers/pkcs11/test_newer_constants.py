"""What leans on the insides of python-pkcs11: these fail when it changes, and say what is not needed any more."""

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, Mechanism

from hsmbridge.core.algorithms import ALGORITHMS
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.providers.pkcs11 import newer_constants
from hsmbridge.providers.pkcs11.newer_constants import key_kind_by_number, mechanism_by_number


@pytest.mark.parametrize("name", ["HKDF_DERIVE", "CHACHA20_POLY1305", "SLH_DSA", "SP800_108_COUNTER_KDF"])
def test_python_pkcs11_still_lacks_the_mechanism(name: str) -> None:
    assert name not in Mechanism.__members__, f"use Mechanism.{name}, and forge it no more"


@pytest.mark.parametrize("name", ["EC_MONTGOMERY", "CHACHA20", "SLH_DSA"])
def test_python_pkcs11_still_lacks_the_key_type(name: str) -> None:
    assert name not in KeyType.__members__, f"use KeyType.{name}, and forge it no more"


def test_python_pkcs11_still_lacks_the_attribute() -> None:
    assert "PUBLIC_KEY_INFO" not in Attribute.__members__


@pytest.mark.parametrize("number", sorted({row.ckm for row in ALGORITHMS.values() if row.ckm is not None}))
def test_every_mechanism_of_the_table_is_one_for_python_pkcs11(number: int) -> None:
    mechanism = mechanism_by_number(number)
    assert isinstance(mechanism, Mechanism)
    assert mechanism == number
    assert Mechanism(number) is mechanism
    assert mechanism_by_number(number) is mechanism


@pytest.mark.parametrize("number", sorted({row.ckk for row in KEY_TYPES.values() if row.ckk is not None}))
def test_every_key_type_of_the_table_is_one_for_python_pkcs11(number: int) -> None:
    kind = key_kind_by_number(number)
    assert isinstance(kind, KeyType)
    assert KeyType(number) is kind


def test_a_known_member_is_not_replaced() -> None:
    assert mechanism_by_number(int(Mechanism.AES_GCM)) is Mechanism.AES_GCM


def test_a_forged_member_is_said_by_its_number() -> None:
    assert mechanism_by_number(0x402A).name == "CKM_0x402a"
    assert newer_constants.SLH_DSA.name == "CKK_0x4b"


def test_bytes_still_go_to_the_module_as_they_are() -> None:
    """`parameters` hands all parameters over as bytes."""
    from pkcs11._pkcs11 import MechanismWithParam  # type: ignore[attr-defined]  # its stubs leave it out

    assert MechanismWithParam(None, {}, Mechanism.AES_GCM, bytes(48)) is not None
    with pytest.raises(pkcs11.ArgumentsBad):
        MechanismWithParam(None, {}, 0x402A, b"")
