"""What a response code of the TPM software stack means: what to do about it, and what to tell the caller.

Codes are those of the TPM 2.0 library specification part 2 section 6.6 and of the TCG TSS 2.0 overview (layers).
A code says more than a client may hear: the words of the stack go into `origin`, for the log.
"""

from enum import Enum, auto

from tpm2_pytss import TPM2_RC, TSS2_Exception

from hsmbridge.core.errors import HsmBridgeError, Status, error

_LAYER_TPM = 0
_LAYER_RESOURCE_MANAGER_TPM = 11

_BUSY = frozenset(
    int(code)
    for code in (
        TPM2_RC.RETRY,
        TPM2_RC.YIELDED,
        TPM2_RC.TESTING,
        TPM2_RC.CANCELED,
        TPM2_RC.NV_RATE,
        TPM2_RC.NV_UNAVAILABLE,
    )
)
_NO_ROOM = frozenset(
    int(code)
    for code in (
        TPM2_RC.OBJECT_MEMORY,
        TPM2_RC.SESSION_MEMORY,
        TPM2_RC.MEMORY,
        TPM2_RC.OBJECT_HANDLES,
        TPM2_RC.SESSION_HANDLES,
    )
)
_STALE = frozenset(
    int(code)
    for code in (
        TPM2_RC.REFERENCE_H0,
        TPM2_RC.REFERENCE_H1,
        TPM2_RC.REFERENCE_H2,
        TPM2_RC.REFERENCE_S0,
        TPM2_RC.REFERENCE_S1,
        TPM2_RC.REFERENCE_S2,
        TPM2_RC.HANDLE,
        TPM2_RC.INTEGRITY,
    )
)


class Trouble(Enum):
    """The ways in which a command can fail that more than its own data decide.

    TRANSPORT: the TPM was not reached, or the stack's state is unusable after that. BUSY: the same command may work
    in a moment. NO_ROOM: no free object slot. STALE: an object, a session or a saved context is not known.
    VERDICT: an answer.
    """

    TRANSPORT = auto()
    BUSY = auto()
    NO_ROOM = auto()
    STALE = auto()
    VERDICT = auto()


def base_code(failure: TSS2_Exception) -> int:
    """The TPM's own code, without the handle, session or parameter that it names; 0 if the TPM did not answer."""
    code = int(failure.rc)
    if code >> 16 not in (_LAYER_TPM, _LAYER_RESOURCE_MANAGER_TPM):
        return 0
    code &= 0xFFFF
    if code & TPM2_RC.FMT1:
        return code & (int(TPM2_RC.FMT1) | 0x3F)
    return code


def trouble(failure: TSS2_Exception) -> Trouble:
    """Which kind of failure this is."""
    code = base_code(failure)
    if code == 0:
        return Trouble.TRANSPORT
    if code in _BUSY:
        return Trouble.BUSY
    if code in _NO_ROOM:
        return Trouble.NO_ROOM
    if code in _STALE:
        return Trouble.STALE
    return Trouble.VERDICT


_LOCKED = "The TPM is locked against guessing of passwords; that passes by itself while it is powered."
_OWNED = (
    "The TPM's owner has set a password, and hsmbridge has none: make the storage root key as the owner"
    " (tpm2_createprimary, tpm2_evictcontrol) at the handle that srk_handle names."
)
_FAILURE_MODE = "The TPM is in failure mode; only a restart of the machine ends that."
_FULL = "The TPM has no room for a persistent object; remove one that nothing uses (tpm2_evictcontrol)."
_CHANGED = "The wrapped key was changed outside of hsmbridge and is not used; restore it from a backup."
_OTHER_USE = "The TPM holds this key for another use; the permissions that it was made with do not cover this one."
_NOT_ABLE = "This TPM cannot do that; choose another algorithm or provider."
_MEANINGS: dict[int, tuple[Status, str]] = {
    int(code): (status, message)
    for status, message, *codes in (
        (Status.PIN_LOCKED, _LOCKED, TPM2_RC.LOCKOUT),
        (Status.PIN_INCORRECT, _OWNED, TPM2_RC.AUTH_FAIL, TPM2_RC.BAD_AUTH),
        (Status.PROVIDER_FAILED, _FAILURE_MODE, TPM2_RC.FAILURE),
        (Status.PROVIDER_FAILED, _FULL, TPM2_RC.NV_SPACE),
        (Status.STORE_TAMPERED, _CHANGED, TPM2_RC.INTEGRITY),
        (Status.KEY_OPERATION_NOT_PERMITTED, _OTHER_USE, TPM2_RC.ATTRIBUTES, TPM2_RC.KEY, TPM2_RC.TYPE),
        (
            Status.NOT_SUPPORTED,
            _NOT_ABLE,
            TPM2_RC.COMMAND_CODE,
            TPM2_RC.ASYMMETRIC,
            TPM2_RC.CURVE,
            TPM2_RC.HASH,
            TPM2_RC.KDF,
            TPM2_RC.KEY_SIZE,
            TPM2_RC.MGF,
            TPM2_RC.MODE,
            TPM2_RC.SCHEME,
            TPM2_RC.SYMMETRIC,
        ),
    )
    for code in codes
}
_ABSENT = "The TPM does not answer; see that it is there and running, and that tcti in the configuration names it."
_CROWDED = (
    "Other programs fill the TPM's object slots; end them, or reach the TPM through its resource manager"
    " (device:/dev/tpmrm0)."
)
_TROUBLES = {
    Trouble.TRANSPORT: (Status.TOKEN_NOT_PRESENT, _ABSENT),
    Trouble.BUSY: (Status.PROVIDER_UNAVAILABLE, "The TPM is busy; try again in a moment."),
    Trouble.NO_ROOM: (Status.PROVIDER_UNAVAILABLE, _CROWDED),
}


def translate(failure: TSS2_Exception) -> HsmBridgeError:
    """The error to raise for a code that no operation knows better."""
    status, message = (
        _MEANINGS.get(base_code(failure)) or _TROUBLES.get(trouble(failure)) or (Status.PROVIDER_FAILED, "")
    )
    return error(status, message, origin=origin(failure))


def locked_out(failure: TSS2_Exception, interval: int) -> HsmBridgeError:
    """The error for a TPM in dictionary-attack lockout that forgives one try every `interval` seconds."""
    return error(
        Status.PIN_LOCKED,
        "The TPM is locked against guessing of passwords. While it is powered it forgives one try every"
        f" {interval} s, and works again then; who holds its lockout password can end the lock at once"
        " (tpm2_dictionarylockout --clear-lockout).",
        origin=origin(failure),
    )


def origin(failure: TSS2_Exception) -> str:
    """For the log: the code, and the stack's words for it."""
    return f"{failure} ({int(failure.rc):#x})"
