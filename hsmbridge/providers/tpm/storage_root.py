"""The storage root key: the parent of every key made here, and what tells one TPM from another.

Made with the template that tpm2-openssl, tpm2-tools and tpm2-pytss use for the parent of a TSS2 PRIVATE KEY, so that
what we wrap loads there too. TPM2_Clear gives the TPM a new seed: the key and its name are others then.
"""

import hashlib
from dataclasses import dataclass

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_ECC,
    TPM2_RC,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMS_ECC_PARMS,
    TPMT_ECC_SCHEME,
    TPMT_KDF_SCHEME,
    TPMT_PUBLIC,
    TPMT_SYM_DEF_OBJECT,
    TPMU_PUBLIC_PARMS,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)

from hsmbridge.core.errors import ProviderError, RequestError, Status
from hsmbridge.providers.tpm.connection import Connection
from hsmbridge.providers.tpm.errors import base_code

_STORAGE_KEY = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)


@dataclass(frozen=True, slots=True)
class StorageRoot:
    """The key at the configured handle, on one connection.

    Attributes:
        handle: for commands on this connection.
        name: the TPM's own digest of its public area; pinned in every reference.
        guarded: a failed use of it counts against the dictionary-attack lockout (NODA is clear).
    """

    handle: ESYS_TR
    name: bytes
    guarded: bool

    @property
    def serial(self) -> str:
        """What identifies the TPM: hexadecimal SHA-256 of the name."""
        return hashlib.sha256(self.name).hexdigest()

    def check_pinned(self, name: str) -> None:
        """Raises ProviderError (WRONG_TOKEN) where the configuration pins another name."""
        if name and self.name.hex() != name.lower():
            raise ProviderError(
                Status.WRONG_TOKEN,
                "The TPM's storage root key is not the one that srk_name pins: this is another TPM, it was cleared, or"
                " something between hsmbridge and the TPM gives another key. Nothing was sent to it.",
                origin=f"its name is {self.name.hex()}",
            )


def storage_root(connection: Connection, handle: int) -> StorageRoot:
    """The storage root key at a persistent handle, made there if nothing is.

    Raises RequestError (INVALID_CONFIGURATION) where another kind of object stands there, TSS2_Exception.
    """
    if handle not in connection.handles(handle):
        _make(connection, handle)
    reference = connection.esapi.tr_from_tpmpublic(handle)
    public, name, _ = connection.esapi.read_public(reference)
    area = public.publicArea
    attributes = int(area.objectAttributes)
    if attributes & _STORAGE_KEY != _STORAGE_KEY or attributes & TPMA_OBJECT.SIGN_ENCRYPT:
        raise RequestError(
            Status.INVALID_CONFIGURATION,
            f"The object at {handle:#x} is no storage root key (restricted, decrypting, made in this TPM and bound"
            " to it); give srk_handle another handle.",
        )
    return StorageRoot(reference, bytes(name), not attributes & TPMA_OBJECT.NODA)


def _make(connection: Connection, handle: int) -> None:
    esapi = connection.esapi
    # The owner's password belongs here (esapi.tr_set_auth on RH_OWNER) once the settings can name a file with it.
    primary, *_ = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), storage_key_template(), ESYS_TR.RH_OWNER)
    try:
        esapi.evict_control(ESYS_TR.RH_OWNER, primary, handle)
    except TSS2_Exception as failure:
        if base_code(failure) != TPM2_RC.NV_DEFINED:  # another process was quicker; its key is looked at like any
            raise
    finally:
        esapi.flush_context(primary)


def storage_key_template() -> TPM2B_PUBLIC:
    """The public area of an ECC P-256 storage key as TSS2 PRIVATE KEY files mean it; a new structure each time."""
    return TPM2B_PUBLIC(
        publicArea=TPMT_PUBLIC(
            type=TPM2_ALG.ECC,
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=_STORAGE_KEY | TPMA_OBJECT.NODA,
            parameters=TPMU_PUBLIC_PARMS(
                eccDetail=TPMS_ECC_PARMS(
                    symmetric=TPMT_SYM_DEF_OBJECT(
                        algorithm=TPM2_ALG.AES,
                        keyBits=TPMU_SYM_KEY_BITS(aes=128),
                        mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB),
                    ),
                    scheme=TPMT_ECC_SCHEME(scheme=TPM2_ALG.NULL),
                    curveID=TPM2_ECC.NIST_P256,
                    kdf=TPMT_KDF_SCHEME(scheme=TPM2_ALG.NULL),
                )
            ),
        )
    )
