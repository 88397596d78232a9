"""HMAC, digest and AES-CFB over data longer than one command takes (TPM_PT_INPUT_BUFFER, 1024 bytes as a rule).

HMAC and digest use a sequence object (part 1 section 32), which occupies an object slot until it is completed; CFB
chains commands by the initialisation vector that each answers.
"""

from contextlib import suppress

from tpm2_pytss import ESYS_TR, TPM2_ALG, TSS2_Exception

from hsmbridge.providers.tpm.device import Opened

_NO_PASSWORD = b""


def mac(opened: Opened, key: ESYS_TR, hash_: int, data: bytes) -> bytes:
    """HMAC of `data`."""
    esapi, session = opened.esapi, opened.secrecy.authorising
    if len(data) <= opened.limits.input_buffer:
        return bytes(esapi.hmac(key, data, hash_, session1=session))
    return _complete(opened, esapi.hmac_start(key, _NO_PASSWORD, hash_, session1=session), data)


def digest(opened: Opened, hash_: int, data: bytes) -> bytes:
    """The hash of `data`."""
    esapi, session = opened.esapi, opened.secrecy.covering
    if len(data) <= opened.limits.input_buffer:
        answer, _ = esapi.hash(data, hash_, ESYS_TR.RH_NULL, session1=session)
        return bytes(answer)
    return _complete(opened, esapi.hash_sequence_start(_NO_PASSWORD, hash_, session1=session), data)


def _complete(opened: Opened, sequence: ESYS_TR, data: bytes) -> bytes:
    esapi, buffer = opened.esapi, opened.limits.input_buffer
    try:
        session = opened.secrecy.authorising
        last = (len(data) - 1) // buffer * buffer
        for start in range(0, last, buffer):
            esapi.sequence_update(sequence, data[start : start + buffer], session1=session)
        answer, _ = esapi.sequence_complete(sequence, data[last:], ESYS_TR.RH_NULL, session1=session)
    except TSS2_Exception:
        # Completing frees the slot; what failed before that must not keep it.
        with suppress(TSS2_Exception):
            esapi.flush_context(sequence)
        raise
    return bytes(answer)


def cfb(opened: Opened, key: ESYS_TR, iv: bytes, data: bytes, *, decrypt: bool) -> tuple[bytes, bytes]:
    """One command's worth of AES-CFB: the result, and the initialisation vector of the next."""
    session = opened.secrecy.authorising
    result, next_iv = opened.esapi.encrypt_decrypt_2(key, decrypt, TPM2_ALG.CFB, iv, data, session1=session)
    return bytes(result), bytes(next_iv)
