"""What a wrapped key is loaded under: the storage root key, or for keys made by others another parent of theirs."""

from collections.abc import Iterator
from contextlib import contextmanager

from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_SENSITIVE_CREATE

from hsmbridge.providers.tpm.storage_root import StorageRoot, storage_key_template
from hsmbridge.providers.tpm.tss2_file import OWNER_HIERARCHY

STORAGE_ROOT = 0
"""In place of a parent's handle: the storage root key, wherever it is configured to be."""


@contextmanager
def parent_object(esapi: ESAPI, root: StorageRoot, parent: int) -> Iterator[ESYS_TR]:
    """The parent, ready for TPM2_Load.

    A primary key of the owner takes one object slot meanwhile, as a persistent key does in the TPM itself.
    Raises TSS2_Exception.
    """
    if parent == STORAGE_ROOT:
        yield root.handle
    elif parent == OWNER_HIERARCHY:
        primary, *_ = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), storage_key_template(), ESYS_TR.RH_OWNER)
        try:
            yield primary
        finally:
            esapi.flush_context(primary)
    else:
        # Not closed: ESAPI has one object for each persistent handle, and others may have it too.
        yield esapi.tr_from_tpmpublic(parent)
