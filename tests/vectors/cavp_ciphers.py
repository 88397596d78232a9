"""CAVP files, and others of their form, on encryption: AES modes (SP 800-38A, C, D) and ChaCha20-Poly1305 (RFC 8439).

Every loader is a generator over the text of one file, of cases to decrypt and, by `encryptions`, to encrypt: the
service lets a caller choose a nonce in slots only, so that half costs more and is run on a part of the files.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from hsmbridge.core.algorithms import ALGORITHMS
from tests.vectors.cases import (
    SECRET_TYPES,
    Case,
    DecryptCase,
    EncryptCase,
    Key,
    LeftOut,
    P,
    UnwrapCase,
    Verdict,
    WrapCase,
)
from tests.vectors.cavp import SECTION, Record, octets, records
from tests.vectors.key_material import aes_key

Loaded = Iterator[Case | LeftOut]

_BLOCK = 16
_PERMISSIONS = P.ENCRYPT | P.DECRYPT


def aead_fits(algorithm: str, nonce: bytes, tag: bytes) -> LeftOut | None:
    """Why the service could not be asked: a row has one size of nonce, and one of tag."""
    row = ALGORITHMS[algorithm]
    if len(nonce) != row.nonce_size:
        return LeftOut(f"nonce of another size than the {row.nonce_size} bytes of the row")
    if len(tag) != row.tag_size:
        return LeftOut(f"tag of another size than the {row.tag_size} bytes of the row")
    return None


def aead_case(
    test: str,
    verdict: Verdict,
    algorithm: str,
    key: Key,
    *,
    nonce: bytes,
    aad: bytes,
    plaintext: bytes,
    ciphertext: bytes,
    tag: bytes,
) -> Case | LeftOut:
    """A case to decrypt. What is wrong on purpose is asked whatever its sizes: it must be refused."""
    if verdict is not Verdict.INVALID and (unfit := aead_fits(algorithm, nonce, tag)):
        return unfit
    return DecryptCase(
        test=test,
        verdict=verdict,
        keys=(key,),
        algorithm=algorithm,
        expected=plaintext,
        ciphertext=ciphertext,
        nonce=nonce,
        aad=aad,
        tag=tag,
    )


def encryptions(load: Callable[[str], Loaded], text: str) -> Loaded:
    """The valid cases of a loader, the other way round."""
    for case in load(text):
        if isinstance(case, LeftOut):
            yield case
        elif isinstance(case, DecryptCase) and case.verdict is Verdict.VALID and isinstance(case.expected, bytes):
            padded = case.algorithm.endswith("-CBC")
            yield EncryptCase(
                test=case.test,
                verdict=case.verdict,
                keys=case.keys,
                algorithm=case.algorithm,
                expected=(case.ciphertext[:-_BLOCK] if padded else case.ciphertext) + case.tag,
                plaintext=case.expected,
                nonce=case.nonce,
                aad=case.aad,
                padded=padded,
            )


def _number(record: Record) -> str:
    return f"{record.get(SECTION, '')}{record['count']}"


def gcm(text: str) -> Loaded:
    """gcmDecrypt*.rsp: the sections with nonces of 96 bits and tags of 128."""
    for number, record in enumerate(records(text, "count")):
        key = aes_key(octets(record["key"]), _PERMISSIONS)
        nonce, tag = octets(record["iv"]), octets(record["tag"])
        if isinstance(key, LeftOut):
            yield key
            continue
        algorithm = f"{key.key_type}-GCM"
        # A tag that is cut short fails as one of any size does; those sections would say the same many times over.
        yield aead_fits(algorithm, nonce, tag) or aead_case(
            str(number),
            Verdict.of("fail" not in record),
            algorithm,
            key,
            nonce=nonce,
            aad=octets(record["aad"]),
            plaintext=octets(record.get("pt", "")),
            ciphertext=octets(record["ct"]),
            tag=tag,
        )


def ccm(text: str) -> Loaded:
    """VNT, VPT, VADT, VTT and DVPT: the sections with nonces of 96 bits and tags of 128."""
    for number, record in enumerate(records(text, "count", common=frozenset({"key"}))):
        key = aes_key(octets(record["key"]), _PERMISSIONS)
        if isinstance(key, LeftOut):
            yield key
            continue
        size, payload, aad = int(record["tlen"]), int(record["plen"]), int(record["alen"])
        sealed = octets(record["ct"])
        nonce, tag = octets(record["nonce"]), sealed[len(sealed) - size :]
        algorithm = f"{key.key_type}-CCM"
        yield aead_fits(algorithm, nonce, tag) or aead_case(
            str(number),
            Verdict.of(not record.get("result", "Pass").startswith("Fail")),
            algorithm,
            key,
            nonce=nonce,
            aad=octets(record.get("adata", ""))[:aad],
            plaintext=octets(record.get("payload", ""))[:payload],
            ciphertext=sealed[: len(sealed) - size],
            tag=tag,
        )


def chacha20_poly1305(text: str) -> Loaded:
    """The files taken from OpenSSL and BoringSSL, which name their fields differently."""
    for record in records(text, "count"):
        nonce = octets(record.get("nonce", record.get("iv", "")))
        tag = octets(record["tag"])
        yield aead_fits("ChaCha20-Poly1305", nonce, tag) or aead_case(
            record["count"],
            Verdict.of("result" not in record),
            "ChaCha20-Poly1305",
            Key("ChaCha20", "raw", octets(record["key"]), _PERMISSIONS),
            nonce=nonce,
            aad=octets(record.get("ad", record.get("aad", ""))),
            plaintext=octets(record.get("in", record.get("plaintext", ""))),
            ciphertext=octets(record.get("ct", record.get("ciphertext", ""))),
            tag=tag,
        )


def _block_mode(mode: str, text: str) -> Loaded:
    for record in records(text, "count"):
        key = aes_key(octets(record["key"]), _PERMISSIONS)
        if isinstance(key, LeftOut):
            yield key
            continue
        nonce, plaintext, ciphertext = octets(record["iv"]), octets(record["plaintext"]), octets(record["ciphertext"])
        if mode == "CBC":
            # The service pads, the files do not: the block of padding is put on with another implementation.
            padding = bytes((_BLOCK,)) * _BLOCK
            encryptor = Cipher(AES(key.material), modes.CBC(ciphertext[-_BLOCK:])).encryptor()
            ciphertext += encryptor.update(padding) + encryptor.finalize()
        yield DecryptCase(
            test=_number(record),
            verdict=Verdict.VALID,
            keys=(key,),
            algorithm=f"{key.key_type}-{mode}",
            expected=plaintext,
            ciphertext=ciphertext,
            nonce=nonce,
        )


cbc = partial(_block_mode, "CBC")
"""CBC*.rsp. Their data is unpadded, and the padding's block is added to each."""
cfb128 = partial(_block_mode, "CFB")
"""CFB128*.rsp."""
ctr = partial(_block_mode, "CTR")
"""The test vectors of RFC 3686."""


def _key_wrap(mode: str, text: str) -> Loaded:
    for record in records(text, "count"):
        key, value = aes_key(octets(record["k"]), P.UNWRAP), octets(record.get("p", ""))
        if isinstance(key, LeftOut):
            yield key
            continue
        if "fail" not in record and len(value) not in SECRET_TYPES:
            yield LeftOut("wrapped value of a size that no key type has")
            continue
        yield UnwrapCase.of(
            f"{record['plaintext length']} bits {record['count']}",
            Verdict.of("fail" not in record),
            f"{key.key_type}-{mode}",
            key,
            octets(record["c"]),
            value,
        )


key_wrap = partial(_key_wrap, "KW")
"""KW_AD_*.txt: wrapped keys, and what is none."""
key_wrap_padded = partial(_key_wrap, "KWP")
"""KWP_AD_*.txt."""


def _wrap_case(test: str, mode: str, key: bytes, value: bytes, wrapped: bytes) -> WrapCase | LeftOut:
    wrapping = aes_key(key, P.WRAP)
    if isinstance(wrapping, LeftOut):
        return wrapping
    if len(value) not in SECRET_TYPES:
        return LeftOut("value of a size that no key type has")
    return WrapCase(
        test=test,
        verdict=Verdict.VALID,
        keys=(wrapping,),
        algorithm=f"{wrapping.key_type}-{mode}",
        expected=wrapped,
        value=value,
    )


def wrapping(text: str) -> Loaded:
    """KW_AE_*.txt: values, and how they are wrapped."""
    for record in records(text, "count"):
        test = f"{record['plaintext length']} bits {record['count']}"
        yield _wrap_case(test, "KW", octets(record["k"]), octets(record["p"]), octets(record["c"]))


def wrapping_padded(text: str) -> Loaded:
    """kwp_botan.txt: values of all sizes, wrapped, and unwrapped again."""
    for record in records(text, "count"):
        test = record["count"]
        key, value, wrapped = (octets(record[name]) for name in ("key", "input", "output"))
        case = _wrap_case(test, "KWP", key, value, wrapped)
        yield case
        if isinstance(case, WrapCase):
            unwrapping = replace(case.keys[0], permissions=P.UNWRAP)
            yield UnwrapCase.of(f"{test} unwrapped", Verdict.VALID, case.algorithm, unwrapping, wrapped, value)
