"""What a TPM can do: the tables' rows, less what it did not name or refused when asked.

It names its algorithms, curves and commands (TPM2_GetCapability) and judges key sizes (TPM2_TestParms). Numbers of
properties are those of the TPM 2.0 library specification part 2 section 6.13.
"""

from tpm2_pytss import TPM2_ALG, TPM2_CC, TPM2_PT, TPMT_PUBLIC_PARMS, TSS2_Exception

from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation
from hsmbridge.core.calls import Claim, Description, TokenIdentity
from hsmbridge.core.key_types import KEY_TYPES
from hsmbridge.core.policy import Protection
from hsmbridge.providers.tpm.adoption import DUPLICATE_FORMAT
from hsmbridge.providers.tpm.connection import FIRST_FIXED_PROPERTY, Connection
from hsmbridge.providers.tpm.device import Opened
from hsmbridge.providers.tpm.errors import Trouble, trouble
from hsmbridge.providers.tpm.lockout import lockout_state
from hsmbridge.providers.tpm.schemes import COMMANDS, does, hash_id
from hsmbridge.providers.tpm.settings import TpmSettings
from hsmbridge.providers.tpm.storage_root import StorageRoot
from hsmbridge.providers.tpm.templates import made_by_tpm, type_parameters

_FIRMWARE_VERSION_1 = 0x10B
_FIRMWARE_VERSION_2 = 0x10C
_VENDOR_STRINGS = range(0x106, 0x10A)

_NOTES = (
    "Keys are in the store, wrapped by the TPM, which stores nothing but its storage root key.",
    "Destroying a key erases it in the store, and cannot revoke copies of the wrapped key, as in backups.",
    "A key that was adopted at a persistent handle stays there when it is destroyed here.",
    "Keys are wrapped under a storage key of 128 bits of strength, also where they are longer.",
    "RSASSA-PSS has the salt length that the TPM chooses; where that is not the length of the hash, signing refuses.",
    "A TPM is slow: digests, MACs and AES-CFB of long data take about a millisecond a kibibyte on a chip.",
)
_NOTE_SHARED = (
    "No resource manager stands before this TPM, so no other program may use it while hsmbridge does: it could take"
    " object slots, or put its own key where ours is expected."
)
_NOTE_GUARDED = (
    "The storage root key was not made with NODA: after a power failure its use may count against the TPM's"
    " dictionary-attack lockout, and a lockout stops it."
)
_NOTE_ENCRYPTED = "Parameters that carry secrets are encrypted on the way to the TPM, in a session salted by"
_NOTE_UNPINNED = (
    "who stands between hsmbridge and the TPM from the beginning could give another; srk_name in the configuration"
    " pins it."
)

TSS2_FORMAT = "tss2"
EXPORTS = (TSS2_FORMAT, DUPLICATE_FORMAT)


def describe(opened: Opened, settings: TpmSettings) -> Description:
    """Ask the TPM. Raises TSS2_Exception."""
    connection = opened.connection
    key_types = _key_types(connection)
    commands = connection.commands()
    exports = EXPORTS if int(TPM2_CC.Duplicate) in commands else (TSS2_FORMAT,)
    return Description(
        scheme="tpm",
        token=_identity(connection, opened.root),
        key_types=key_types,
        imports=key_types if int(TPM2_CC.Import) in commands else (),
        claims=_claims(connection, frozenset(key_types)),
        random=True,
        lists=False,
        protection=Protection.TOKEN,
        notes=notes(opened, settings),
        adopts=True,
        attests=int(TPM2_CC.Certify) in commands,
        exports=exports,
    )


def notes(opened: Opened, settings: TpmSettings) -> tuple[str, ...]:
    """What an operator should know, now. Raises TSS2_Exception."""
    found = list(_NOTES)
    if not settings.managed:
        found.append(_NOTE_SHARED)
    if opened.root.guarded:
        found.append(_NOTE_GUARDED)
    if settings.parameter_encryption:
        pinned = "which is pinned." if settings.srk_name else _NOTE_UNPINNED
        found.append(f"{_NOTE_ENCRYPTED} the storage root key {opened.root.name.hex()}; {pinned}")
    found.append(lockout_state(opened.connection).note())
    return tuple(found)


def _key_types(connection: Connection) -> tuple[str, ...]:
    return tuple(
        row.name for row in KEY_TYPES.values() if made_by_tpm(row) and _takes(connection, type_parameters(row))
    )


def _takes(connection: Connection, parameters: TPMT_PUBLIC_PARMS) -> bool:
    try:
        connection.esapi.test_parms(parameters)
    except TSS2_Exception as failure:
        if trouble(failure) is not Trouble.VERDICT:
            raise
        return False
    return True


def _claims(connection: Connection, key_types: frozenset[str]) -> tuple[Claim, ...]:
    algorithms = connection.algorithms() | {int(TPM2_ALG.NULL)}
    commands = connection.commands()

    def can(row: Algorithm, operation: KeyOperation) -> bool:
        return does(row, operation) and commands.issuperset(COMMANDS[row.scheme, operation])

    claims = []
    for row in ALGORITHMS.values():
        if row.tpm_alg not in algorithms or hash_id(row) not in algorithms:
            continue
        if row.key_types and key_types.isdisjoint(row.key_types):
            continue
        operations = tuple(operation.value for operation in row.operations if can(row, operation))
        if operations:
            claims.append(Claim(row.name, operations))
    return tuple(claims)


def _identity(connection: Connection, root: StorageRoot) -> TokenIdentity:
    properties = connection.properties(FIRST_FIXED_PROPERTY)
    high, low = properties.get(_FIRMWARE_VERSION_1, 0), properties.get(_FIRMWARE_VERSION_2, 0)
    model = " ".join(_text(*(properties.get(number, 0) for number in _VENDOR_STRINGS)).split())
    return TokenIdentity(
        label=model or "TPM 2.0",
        serial=root.serial,
        manufacturer=_text(properties.get(int(TPM2_PT.MANUFACTURER), 0)),
        model=model,
        firmware=f"{high >> 16}.{high & 0xFFFF}.{low >> 16}.{low & 0xFFFF}",
        uri=f"tpm:serial={root.serial}",
    )


def _text(*words: int) -> str:
    """The characters that a TPM packs into its 32-bit properties."""
    packed = b"".join(word.to_bytes(4) for word in words)
    return "".join(chr(byte) for byte in packed if 0x20 <= byte < 0x7F).strip()
