"""Keys and tokens as files and text: every format that a key is read from, encrypted files, TSS2 keys, PKCS#11 URIs."""

import json
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tpm2_pytss import TPM2B_PRIVATE, TPM2B_SENSITIVE

from hsmbridge.client.file_format import CHUNK_MAX, FileHeader, join_file, split_file
from hsmbridge.client.key_formats.asymmetric import spki_of, type_of_spki
from hsmbridge.client.key_formats.given import GivenKey, read_key
from hsmbridge.client.key_formats.names import Format, PublicKeyFormat
from hsmbridge.client.key_formats.pem import public_key_der
from hsmbridge.client.key_formats.public import write_public_key
from hsmbridge.client.results import Ciphertext
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.pkcs11_uri import Pkcs11Uri, format_uri, parse_uri
from hsmbridge.providers.tpm.tss2_file import Tss2Key, Tss2Kind, from_file, to_der, to_pem
from tests.fuzz.target import Reader, Target

FORMATS = tuple(Format)


def read_any(data: bytes) -> GivenKey:
    """A key behind the place of its format; a public one can be written in every format that has a form for it."""
    found = read_key(data[1:], FORMATS[(data[0] if data else 0) % len(FORMATS)])
    if found.form == "spki":
        for format_, written in _written(found.material):
            assert read_key(written, format_).key_type == found.key_type
    return found


def _written(spki: bytes) -> Iterator[tuple[Format, bytes]]:
    """A public key in every format that has a form for it."""
    for format_ in PublicKeyFormat:
        try:
            yield Format(format_), write_public_key(spki, format_)
        except RequestError as refused:
            if refused.status is not Status.NOT_SUPPORTED:
                raise AssertionError("what was read cannot be written") from refused


def read_public(data: bytes) -> str:
    """A public key that a call is given."""
    return type_of_spki(public_key_der(data)).name


def read_uri(data: bytes) -> Pkcs11Uri:
    """A URI; written again it is the same."""
    uri = parse_uri(data.decode("latin-1"))
    assert parse_uri(format_uri(uri)) == uri
    return uri


def read_encrypted(data: bytes) -> list[Ciphertext]:
    """A file that hsmbridge encrypted; put together again it is the same."""
    header, chunks = split_file(data)
    assert join_file(header, chunks) == data
    assert all(len(one.ciphertext) < CHUNK_MAX for one in chunks)
    return chunks


def read_tss2(data: bytes) -> Tss2Key:
    """A wrapped key; written again it can be read."""
    key = from_file(data)
    assert from_file(to_der(key)).kind is key.kind
    return key


def _keys() -> list[PrivateKeyTypes]:
    return [
        ec.derive_private_key(7, ec.SECP256R1()),
        ec.derive_private_key(7, ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
        mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32)),
    ]


def _files() -> list[bytes]:
    found = []
    modulus = spki_of(rsa.RSAPublicNumbers(65537, (1 << 2047) + 11).public_key())
    for spki in [modulus, *(spki_of(key.public_key()) for key in _keys())]:
        for format_, written in _written(spki):
            found += [bytes([0]) + written, bytes([FORMATS.index(format_)]) + written]
    for key in _keys()[:3]:
        found.append(bytes([0]) + key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        found.append(bytes([0]) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    traditional = _keys()[0].private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    private = {"kty": "OKP", "crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
               "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}  # fmt: skip
    documents = [private, {"keys": [private]}, {"kty": "oct", "k": "AAEC"}]
    return [*found, bytes([0]) + traditional, *(bytes([0]) + json.dumps(one).encode() for one in documents)]


def _tss2() -> list[bytes]:
    public = TPM2B_SENSITIVE.keyedhash_from_secret(b"secret")[1]
    loadable = Tss2Key(Tss2Kind.LOADABLE, 0x81000001, public, TPM2B_PRIVATE(bytes(range(64))))
    duplicate = Tss2Key(Tss2Kind.IMPORTABLE, 0x40000001, public, TPM2B_PRIVATE(bytes(64)), b"outer secret")
    return [to_der(loadable), to_pem(loadable), to_der(duplicate)]


_URIS = (
    "pkcs11:",
    "pkcs11:token=My%20token;manufacturer=Snake%20Oil;serial=1;model=1.0;object=key;type=private;id=%01%02",
    "pkcs11:slot-id=3;library-version=2.0?module-path=/usr/lib/x.so&module-name=x&pin-source=file:/etc/pin",
)
_FILE = join_file(FileHeader("uid-0/backup", 3, bytes(16)), [Ciphertext(3, bytes(12), b"content", bytes(16))])

TARGET = Target(
    (
        Reader("key", read_any, _files()),
        Reader("public key", read_public, [one[1:] for one in _files() if one[:2] == b"\0\x30" and one[3] < 0x80][:2]),
        Reader("uri", read_uri, [uri.encode() for uri in _URIS]),
        Reader("encrypted file", read_encrypted, [_FILE]),
        Reader("TSS2", read_tss2, _tss2()),
    )
)
