"""HMAC, digest and AES-CFB over data longer than one command takes (TPM_PT_INPUT_BUFFER, 1024 bytes as a rule).

HMAC and digest use a sequence object (part 1 section 32), which occupies an object slot until it is completed; CFB
chains commands by the initialisation vector that each answers.
"""

from contextlib import suppress

from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TSS2_Exception

_NO_PASSWORD = b""


def mac(esapi: ESAPI, key: ESYS_TR, hash_: int, data: bytes, buffer: int) -> bytes:
    """HMAC of `data`."""
    if len(data) <= buffer:
        return bytes(esapi.hmac(key, data, hash_))
    return _complete(esapi, esapi.hmac_start(key, _NO_PASSWORD, hash_), data, buffer)


def digest(esapi: ESAPI, hash_: int, data: bytes, buffer: int) -> bytes:
    """The hash of `data`."""
    if len(data) <= buffer:
        answer, _ = esapi.hash(data, hash_, ESYS_TR.RH_NULL)
        return bytes(answer)
    return _complete(esapi, esapi.hash_sequence_start(_NO_PASSWORD, hash_), data, buffer)


def _complete(esapi: ESAPI, sequence: ESYS_TR, data: bytes, buffer: int) -> bytes:
    try:
        last = (len(data) - 1) // buffer * buffer
        for start in range(0, last, buffer):
            esapi.sequence_update(sequence, data[start : start + buffer])
        answer, _ = esapi.sequence_complete(sequence, data[last:], ESYS_TR.RH_NULL)
    except TSS2_Exception:
        # Completing frees the slot; what failed before that must not keep it.
        with suppress(TSS2_Exception):
            esapi.flush_context(sequence)
        raise
    return bytes(answer)


def cfb(esapi: ESAPI, key: ESYS_TR, iv: bytes, data: bytes, *, decrypt: bool) -> tuple[bytes, bytes]:
    """One command's worth of AES-CFB: the result, and the initialisation vector of the next."""
    result, next_iv = esapi.encrypt_decrypt_2(key, decrypt, TPM2_ALG.CFB, iv, data)
    return bytes(result), bytes(next_iv)
