"""Which algorithm is meant when none is named, and the KDF that options describe."""

import pytest

from hsmbridge.cli.defaults import default_algorithm
from hsmbridge.cli.kdf_options import NAMES, KdfOptions
from hsmbridge.cli.output import printable
from hsmbridge.client import Hkdf, NoncePolicy, SlotInfo
from hsmbridge.client.key_formats.pem import public_key_der, public_key_pem
from hsmbridge.core.algorithms import ALGORITHMS, Kind
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.key_types import KEY_TYPES


def slot(key_type: str, *algorithms: str) -> SlotInfo:
    return SlotInfo(
        "uid-0/web",
        key_type,
        ("software",),
        0,
        algorithms,
        NoncePolicy.SERVICE,
        False,
        False,
        False,
        False,
        1,
        0.0,
        [],
        [],
    )


@pytest.mark.parametrize(
    ("key_type", "kind", "name"),
    [
        ("EC-P256", Kind.SIGNATURE, "ECDSA-P256-SHA256"),
        ("EC-P384", Kind.SIGNATURE, "ECDSA-P384-SHA384"),
        ("Ed25519", Kind.SIGNATURE, "Ed25519"),
        ("ML-DSA-65", Kind.SIGNATURE, "ML-DSA-65"),
        ("ML-KEM-768", Kind.KEM, "ML-KEM-768"),
        ("AES-256", Kind.AEAD, "AES-256-GCM"),
        ("ChaCha20", Kind.AEAD, "ChaCha20-Poly1305"),
        ("HMAC-SHA256", Kind.MAC, "HMAC-SHA256"),
        ("AES-128", Kind.MAC, "AES-CMAC"),
    ],
)
def test_an_obvious_choice_is_taken(key_type: str, kind: Kind, name: str) -> None:
    assert default_algorithm(slot(key_type), (kind,)).name == name


def test_what_is_not_obvious_must_be_said() -> None:
    with pytest.raises(RequestError, match=r"--algorithm: RSA-PKCS1-SHA256, .*RSA-PSS-SHA512") as caught:
        default_algorithm(slot("RSA-2048"), (Kind.SIGNATURE,))
    assert caught.value.status is Status.INVALID_ARGUMENT


def test_the_slots_own_list_decides_first() -> None:
    assert default_algorithm(slot("RSA-2048", "RSA-PSS-SHA256"), (Kind.SIGNATURE,)).name == "RSA-PSS-SHA256"
    assert default_algorithm(slot("AES-256", "AES-256-CCM"), (Kind.AEAD, Kind.CIPHER)).name == "AES-256-CCM"


def test_a_key_that_is_not_for_this_says_so() -> None:
    with pytest.raises(RequestError, match="which are not for signature") as caught:
        default_algorithm(slot("AES-256"), (Kind.SIGNATURE,))
    assert caught.value.status is Status.KEY_TYPE_MISMATCH


def test_whatever_is_chosen_takes_the_key_type() -> None:
    for key_type in KEY_TYPES:
        for kind in Kind:
            try:
                chosen = default_algorithm(slot(key_type), (kind,))
            except RequestError:
                continue
            assert key_type in chosen.key_types


def kdf(name: str | None, hash_: str = "sha256", iterations: int | None = 1000) -> KdfOptions:
    return KdfOptions(name=name, hash_=hash_, salt=b"s", info=b"i", label=b"l", context=b"c", iterations=iterations)


def test_every_kdf_has_parameters_of_an_algorithm_of_the_table() -> None:
    for name in NAMES:
        parameters = kdf(name).parameters()
        assert parameters is not None
        assert ALGORITHMS[parameters.algorithm].kind is Kind.KDF
    assert kdf(None).parameters() is None


def test_the_hash_may_be_written_as_people_do() -> None:
    for written in ("sha384", "SHA384", "sha-384", "SHA-384"):
        assert kdf("hkdf", written).parameters() == Hkdf(algorithm="HKDF-SHA384", salt=b"s", info=b"i")


def test_pbkdf2_needs_iterations() -> None:
    with pytest.raises(RequestError, match="--iterations"):
        kdf("pbkdf2", iterations=None).parameters()


def test_a_public_key_is_read_as_pem_and_as_der() -> None:
    spki = b"\x30" + bytes(range(91))
    assert public_key_der(public_key_pem(spki).encode()) == spki
    assert public_key_der(b"# a comment\n" + public_key_pem(spki).encode()) == spki
    assert public_key_der(spki) == spki


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "neither PEM nor DER"),
        (b"-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n", "holds a certificate"),
        (b"-----BEGIN PUBLIC KEY-----\nMA\n-----END PUBLIC KEY-----\n", "damaged"),
    ],
)
def test_what_is_no_public_key_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        public_key_der(data)


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("tok\x1b[31men\n") == "tok\\x1b[31men\\n"
    assert printable("Schlüssel") == "Schlüssel"
