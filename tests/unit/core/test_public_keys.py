"""Numbers that no RSA key has, wherever a public key comes from outside."""

import json
from base64 import urlsafe_b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from est.ca.authority import check_key
from hsmbridge.client.key_formats.given import read_key
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.public_keys import checked, is_possible

N = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
IMPOSSIBLE = [N - 1, N - N % 6 + 3, N - N % 1502 + 751]


def key(modulus: int) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(65537, modulus).public_key()


def jwk(modulus: int) -> bytes:
    n = urlsafe_b64encode(modulus.to_bytes(256)).rstrip(b"=").decode()
    return json.dumps({"kty": "RSA", "n": n, "e": "AQAB"}).encode()


def forms(modulus: int) -> tuple[bytes, ...]:
    public = key(modulus)
    return (
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        jwk(modulus),
    )


@pytest.mark.parametrize("modulus", IMPOSSIBLE, ids=["even", "3 divides it", "751 divides it"])
def test_a_modulus_with_a_small_prime_factor_is_no_key(modulus: int) -> None:
    with pytest.raises(ValueError, match="small prime"):
        checked(key(modulus))
    for data in forms(modulus):
        with pytest.raises(RequestError) as refusal:
            read_key(data)
        assert refusal.value.status is Status.INVALID_ARGUMENT
    with pytest.raises(RequestError, match="cannot be one"):
        check_key(key(modulus), None)


def test_another_is() -> None:
    assert is_possible(key(N))
    assert [read_key(data).key_type for data in forms(N)] == 3 * ["RSA-2048"]
    check_key(key(N), None)
