"""The session that a command runs in: a plain password session, or one that encrypts its parameters on the way.

With parameter encryption, commands that carry secrets run in an HMAC session salted by the storage root key, with
AES-128 in CFB mode (TPM 2.0 library specification part 1 sections 19 and 21): who listens between this process and
the TPM learns neither messages nor plaintexts, MACs, random bytes or shared secrets. Signing does not: digests and
signatures are no secrets, and the session costs five times the signature.
"""

from contextlib import suppress

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_SE,
    TPMA_SESSION,
    TPMT_SYM_DEF,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)


class Secrecy:
    """The sessions of one connection. Not thread-safe."""

    def __init__(self, esapi: ESAPI, root: ESYS_TR, *, encrypts: bool) -> None:
        self._esapi = esapi
        self._root = root
        self._encrypts = encrypts
        self._session: ESYS_TR | None = None

    @property
    def authorising(self) -> ESYS_TR:
        """For a command that uses a key by its empty password. Raises TSS2_Exception."""
        return self._encrypting() if self._encrypts else ESYS_TR.PASSWORD

    @property
    def covering(self) -> ESYS_TR:
        """For a command that needs no authorisation. Raises TSS2_Exception."""
        return self._encrypting() if self._encrypts else ESYS_TR.NONE

    def drop(self) -> None:
        """Free the session; the next command begins a new one."""
        session, self._session = self._session, None
        if session is not None:
            try:
                self._esapi.flush_context(session)
            except TSS2_Exception:
                with suppress(TSS2_Exception):
                    self._esapi.tr_close(session)

    def _encrypting(self) -> ESYS_TR:
        if self._session is None:
            self._session = encrypting_session(self._esapi, self._root, TPM2_SE.HMAC)
        return self._session


def encrypting_session(esapi: ESAPI, root: ESYS_TR, kind: int) -> ESYS_TR:
    """A new session salted by a storage key that encrypts the first parameter both ways. Raises TSS2_Exception."""
    aes = TPMT_SYM_DEF(algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(sym=128), mode=TPMU_SYM_MODE(sym=TPM2_ALG.CFB))
    session = esapi.start_auth_session(root, ESYS_TR.NONE, kind, aes, TPM2_ALG.SHA256)
    esapi.trsess_set_attributes(session, TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT)
    return session
