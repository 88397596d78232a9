"""How near a TPM is to its dictionary-attack lockout (part 1 section 19.8), told and never made worse.

The keys made here have empty passwords and NODA, so that their use counts nothing; a simulator is shut down in order
when we leave it. Numbers of properties are those of part 2 section 6.13.
"""

from dataclasses import dataclass

from tpm2_pytss import TPM2_PT

from hsmbridge.providers.tpm.connection import Connection

_VARIABLE = 0x200
_IN_LOCKOUT = 1 << 9
"""inLockout of TPMA_PERMANENT."""


@dataclass(frozen=True, slots=True)
class LockoutState:
    """What TPM2_GetCapability says of it.

    Attributes:
        counter: failed authorisations that are counted now.
        tries: how many lock it.
        interval: seconds of being powered after which one is forgiven; 0 for never.
        locked: whether it is locked.
    """

    counter: int
    tries: int
    interval: int
    locked: bool

    def note(self) -> str:
        """A sentence for the operator."""
        if self.locked:
            state = "The TPM is in dictionary-attack lockout: keys without NODA cannot be used"
        else:
            state = f"Dictionary-attack state: {self.counter} of {self.tries} failed authorisations are counted"
        return f"{state}; one is forgiven every {self.interval} s."


def lockout_state(connection: Connection) -> LockoutState:
    """Ask. Raises TSS2_Exception."""
    properties = connection.properties(_VARIABLE)
    return LockoutState(
        counter=properties.get(int(TPM2_PT.LOCKOUT_COUNTER), 0),
        tries=properties.get(int(TPM2_PT.MAX_AUTH_FAIL), 0),
        interval=properties.get(int(TPM2_PT.LOCKOUT_INTERVAL), 0),
        locked=bool(properties.get(int(TPM2_PT.PERMANENT), 0) & _IN_LOCKOUT),
    )
