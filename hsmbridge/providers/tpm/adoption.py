"""Keys that somebody else made for this TPM: TSS2 PRIVATE KEY files, duplicates, and persistent handles.

A file is loadable under the parent that it names, or a duplicate that this TPM's storage root key takes in. A key at
a persistent handle stays where it is, and destroying it here leaves it there. Passwords and policies are refused.
"""

from dataclasses import dataclass

from tpm2_pytss import TPM2_RC, TPM2B_PRIVATE, TPM2B_PUBLIC, TPMA_OBJECT, TSS2_Exception

from hsmbridge.core import calls
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status
from hsmbridge.core.key_types import KeyType
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.permissions import permission_names, permissions_from_bits
from hsmbridge.providers.tpm import references
from hsmbridge.providers.tpm.cache import persistent_object
from hsmbridge.providers.tpm.device import Opened, Tpm
from hsmbridge.providers.tpm.errors import Trouble, base_code, origin, trouble
from hsmbridge.providers.tpm.importing import take_duplicate
from hsmbridge.providers.tpm.parents import STORAGE_ROOT, parent_object
from hsmbridge.providers.tpm.policies import binding_digest
from hsmbridge.providers.tpm.references import Reference
from hsmbridge.providers.tpm.templates import key_type_of, permissions_of
from hsmbridge.providers.tpm.tss2_file import OWNER_HIERARCHY, Tss2Key, Tss2Kind, from_file

DUPLICATE_FORMAT = "tpm2-duplicate"
_PERSISTENT = range(0x81000000, 0x82000000)
_ANY_KEY = P.GENERATE
_NOT_OURS = frozenset(int(code) for code in (TPM2_RC.INTEGRITY, TPM2_RC.VALUE, TPM2_RC.SIZE, TPM2_RC.ECC_POINT))


@dataclass(frozen=True, slots=True)
class Found:
    """A key that is there.

    Attributes:
        public: its public area.
        private: its sensitive area, wrapped; None for one at a persistent handle.
        parent: what wraps it.
        persistent: that handle, or 0.
        name: the TPM's digest of its public area.
        root_name: of the TPM's storage root key.
    """

    public: TPM2B_PUBLIC
    private: TPM2B_PRIVATE | None
    parent: int
    persistent: int
    name: bytes
    root_name: bytes

    @property
    def row(self) -> KeyType:
        """Raises RequestError (NOT_SUPPORTED)."""
        return key_type_of(self.public)

    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo in DER; b"" for a secret key."""
        return b"" if self.row.symmetric else bytes(self.public.to_der())

    def reference(self, binding: bytes, srk_handle: int) -> Reference:
        """What the store is to keep of it."""
        foreign = binding_digest(binding)
        if self.private is None:
            return references.persistent_reference(self.root_name, self.persistent, self.name, foreign)
        handle = srk_handle if self.parent == STORAGE_ROOT else self.parent
        der = references.private_key_der(self.private, self.public, handle)
        return references.wrapped_reference(self.root_name, der, foreign=foreign, parent=self.parent)


def examine(found: Found) -> calls.ForeignKey:
    """What a key is. Raises RequestError (NOT_SUPPORTED) for one that cannot be used from here."""
    row = found.row
    return calls.ForeignKey(row.name, int(permissions_of(found.public, row)), found.public_key())


def check_target(public: TPM2B_PUBLIC, target: calls.KeyTarget) -> None:
    """Raises RequestError: KEY_TYPE_MISMATCH, INVALID_PERMISSIONS where the key cannot be what is asked for."""
    row = key_type_of(public)
    if row.name != target.key_type:
        raise RequestError(Status.KEY_TYPE_MISMATCH, f"The TPM key is of type {row.name}, not {target.key_type}.")
    allowed = permissions_of(public, row)
    lacking = permissions_from_bits(target.permissions) & ~(allowed | _ANY_KEY)
    if lacking:
        raise RequestError(
            Status.INVALID_PERMISSIONS,
            f"The TPM key was not made to {', '.join(permission_names(lacking))}; it can"
            f" {', '.join(permission_names(allowed)) or 'do nothing here'}.",
        )


def find(tpm: Tpm, srk_handle: int, uri: str, material: bytes) -> Found:
    """The key that is named.

    Args:
        tpm: where it is.
        srk_handle: of the storage root key.
        uri: a persistent handle, or "".
        material: a TSS2 PRIVATE KEY, or the reference of a key that was adopted before.

    Raises:
        ProviderError: KEY_MATERIAL_MISSING, WRONG_TOKEN.
        RequestError: INVALID_ARGUMENT, NOT_SUPPORTED.
    """
    if bool(uri) is bool(material):
        raise RequestError(
            Status.INVALID_ARGUMENT, "Name one key: by a persistent handle like 0x81000010, or by a TSS2 PRIVATE KEY."
        )
    if uri:
        handle = _handle(uri)
        found = tpm.run(lambda opened: _at_handle(opened, handle))
    elif references.is_reference(material):
        reference = references.decode(material)
        found = tpm.run(lambda opened: _again(opened, reference), _damaged)
    else:
        key = from_file(material)
        found = tpm.run(lambda opened: _in_file(opened, srk_handle, key), _damaged)
    _ = found.row
    return found


def find_duplicate(tpm: Tpm, srk_handle: int, material: bytes) -> Found:
    """As `find`, for a file that must be a duplicate."""
    if from_file(material).kind is not Tss2Kind.IMPORTABLE:
        raise RequestError(
            Status.INVALID_ARGUMENT, "This TSS2 PRIVATE KEY is no duplicate but a loadable key: adopt it instead."
        )
    return find(tpm, srk_handle, "", material)


def _handle(uri: str) -> int:
    try:
        handle = int(uri, 16)
    except ValueError:
        handle = 0
    if handle not in _PERSISTENT:
        raise RequestError(
            Status.INVALID_ARGUMENT, "A key in a TPM's own memory is named by its persistent handle, like 0x81000010."
        )
    return handle


def _at_handle(opened: Opened, handle: int, name: bytes = b"") -> Found:
    _, public = persistent_object(opened.esapi, handle, name)
    area = public.publicArea
    if not int(area.objectAttributes) & TPMA_OBJECT.NODA:
        # Whether its password is empty shows only in a try, and a wrong try brings the TPM nearer to its lockout.
        raise RequestError(
            Status.NOT_SUPPORTED,
            "The key at that handle was made without NODA, so trying it could lock the TPM; make it with noda, or give"
            " its TSS2 PRIVATE KEY, which says whether it has a password.",
        )
    return Found(public, None, STORAGE_ROOT, handle, bytes(public.get_name()), opened.root.name)


def _again(opened: Opened, reference: Reference) -> Found:
    references.check_same_tpm(reference.parent_name, opened.root.name)
    if reference.persistent:
        return _at_handle(opened, reference.persistent, reference.name)
    private, public = references.private_key_parts(reference.private_key)
    if not _loads(opened, reference.parent, private, public):
        raise references.tampered()
    return Found(public, private, reference.parent, 0, bytes(public.get_name()), opened.root.name)


def _in_file(opened: Opened, srk_handle: int, key: Tss2Key) -> Found:
    private, parents = key.private, _parents(key.parent, srk_handle)
    if key.kind is Tss2Kind.IMPORTABLE:
        private, parents = _imported(opened, key), (STORAGE_ROOT,)
    for parent in parents:
        if _loads(opened, parent, private, key.public):
            return Found(key.public, private, parent, 0, bytes(key.public.get_name()), opened.root.name)
    raise ProviderError(
        Status.WRONG_TOKEN,
        "This TPM did not wrap the key: it belongs to another TPM, was made before this one was cleared, or the file"
        " was changed.",
    )


def _parents(named: int, srk_handle: int) -> tuple[int, ...]:
    if named == OWNER_HIERARCHY:
        # Usually our storage root key is what the usual template gives there, and is there already.
        return (STORAGE_ROOT, OWNER_HIERARCHY)
    if named == srk_handle:
        return (STORAGE_ROOT,)
    if named in _PERSISTENT:
        return (named,)
    raise RequestError(
        Status.NOT_SUPPORTED,
        f"The key's parent {named:#x} is neither a persistent handle nor the owner hierarchy ({OWNER_HIERARCHY:#x}).",
    )


def _imported(opened: Opened, key: Tss2Key) -> TPM2B_PRIVATE:
    area = key.public.publicArea
    if int(area.objectAttributes) & (TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT):
        raise RequestError(Status.INVALID_ARGUMENT, "The duplicate is of a key that cannot be duplicated.")
    try:
        return take_duplicate(opened, key.public, key.private, key.secret)
    except TSS2_Exception as failure:
        if base_code(failure) not in _NOT_OURS:
            raise
        raise ProviderError(
            Status.WRONG_TOKEN,
            "The duplicate was not made for this TPM's storage root key, or it was changed.",
            origin=origin(failure),
        ) from failure


def _loads(opened: Opened, parent: int, private: TPM2B_PRIVATE, public: TPM2B_PUBLIC) -> bool:
    opened.keys.make_room()
    try:
        with parent_object(opened.esapi, opened.root, parent) as handle:
            opened.esapi.flush_context(opened.esapi.load(handle, private, public))
    except TSS2_Exception as failure:
        # No such parent there, or one that did not wrap it.
        if base_code(failure) in (TPM2_RC.INTEGRITY, TPM2_RC.HANDLE):
            return False
        raise
    return True


def _damaged(failure: TSS2_Exception) -> HsmBridgeError | None:
    if trouble(failure) is not Trouble.VERDICT or base_code(failure) in (TPM2_RC.AUTH_FAIL, TPM2_RC.BAD_AUTH):
        return None
    return RequestError(
        Status.INVALID_ARGUMENT, "The TPM takes the TSS2 PRIVATE KEY for no valid key.", origin=origin(failure)
    )
