"""The authPolicy of our keys (TPM 2.0 library specification part 1 section 19, part 3 section 23).

The TPM keeps a key's public area with it, so what stands in its authPolicy is tied to the key. For a key that stays
where it is that is a digest of the store's binding, which no policy has. A key that may be duplicated needs a policy
for that one command; it and the binding are then the two branches of a TPM2_PolicyOR.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2_CC, TPM2_SE, TPML_DIGEST, TPMT_SYM_DEF

_NO_POLICY = bytes(32)
_DUPLICATE = int(TPM2_CC.Duplicate)


def binding_digest(binding: bytes) -> bytes:
    """What ties a wrapped key to the store's record of it, as the 32 bytes of the key's authPolicy.

    The TPM authenticates the public area with the private one, so a blob moved to another slot is found out. No
    policy has this digest: a policy digest hashes something that begins with another one.
    """
    return hashlib.sha256(b"hsmbridge key binding\0" + binding).digest()


def duplicable_digest(binding: bytes) -> bytes:
    """The authPolicy of a key that TPM2_Duplicate may be used on, and that is bound like the others."""
    return _extend(_NO_POLICY, TPM2_CC.PolicyOR, b"".join(_branches(binding)))


@contextmanager
def duplication_session(esapi: ESAPI, binding: bytes) -> Iterator[ESYS_TR]:
    """A policy session that permits TPM2_Duplicate of a key with `duplicable_digest`. Raises TSS2_Exception."""
    session = esapi.start_auth_session(
        ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
    )
    try:
        esapi.policy_command_code(session, TPM2_CC.Duplicate)
        esapi.policy_or(session, TPML_DIGEST(digests=list(_branches(binding))))
        yield session
    finally:
        esapi.flush_context(session)


def _branches(binding: bytes) -> tuple[bytes, bytes]:
    command_only = _extend(_NO_POLICY, TPM2_CC.PolicyCommandCode, _DUPLICATE.to_bytes(4))
    return command_only, binding_digest(binding)


def _extend(before: bytes, command: int, data: bytes) -> bytes:
    return hashlib.sha256(before + int(command).to_bytes(4) + data).digest()
