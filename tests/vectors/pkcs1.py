"""Reads the vectors that came with PKCS#1 v2.1, and those made after them: labels in comments, bytes under them.

# Modulus:
a8 b3 b2 ...
# Message:
66 28 19 ...
"""

from collections.abc import Iterator
from functools import partial

from tests.vectors.cases import Case, DecryptByNameCase, DecryptCase, Key, LeftOut, P, Verdict
from tests.vectors.key_material import rsa_private_key

Loaded = Iterator[Case | LeftOut]


def _values(text: str) -> Iterator[tuple[str, bytes]]:
    label, digits = "", ""
    for line in [*text.splitlines(), "# end:"]:
        stripped = line.strip()
        if not stripped.startswith("#"):
            digits += stripped.replace(" ", "") if label else ""
            continue
        if label and digits:
            yield label, bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
        name = stripped.strip("# ")
        label, digits = (name[:-1].strip().lower() if name.endswith(":") else ""), ""


def _decryptions(algorithm: str, text: str) -> Loaded:
    private: dict[str, int] = {}
    key: Key | LeftOut = LeftOut("no key")
    message = b""
    for number, (label, value) in enumerate(_values(text)):
        if label in {"modulus", "exponent", "public exponent", "prime 1", "prime 2"}:
            private[label] = int.from_bytes(value, "big")
        elif label == "coefficient":
            key = rsa_private_key(
                private["modulus"],
                private["public exponent"],
                private["exponent"],
                private["prime 1"],
                private["prime 2"],
                P.DECRYPT,
            )
        elif label == "message":
            message = value
        elif label == "encryption":
            if isinstance(key, LeftOut):
                yield key
                continue
            yield (DecryptByNameCase if algorithm == "RSA-PKCS1" else DecryptCase)(
                test=str(number),
                verdict=Verdict.VALID,
                keys=(key,),
                algorithm=algorithm,
                expected=message,
                ciphertext=value,
            )


oaep_sha1 = partial(_decryptions, "RSA-OAEP-SHA1")
oaep_sha256 = partial(_decryptions, "RSA-OAEP-SHA256")
oaep_sha384 = partial(_decryptions, "RSA-OAEP-SHA384")
oaep_sha512 = partial(_decryptions, "RSA-OAEP-SHA512")
rsaes_pkcs1 = partial(_decryptions, "RSA-PKCS1")
