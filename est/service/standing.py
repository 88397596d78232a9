"""How one certificate is: what the control socket, the metrics and `est status` tell of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """One certificate; times in seconds since 1970, 0 where there is none.

    Attributes:
        serial: of the certificate in use, hex; "" before the first one.
        due: when the next step comes.
        renewals: since the service started.
        failures: since the service started.
        failures_in_a_row: 0 after a success.
        reason: of the last failure; "" after a success.
        pending: a request waits for an approval.
    """

    name: str
    serial: str = ""
    not_after: float = 0.0
    due: float = 0.0
    renewals: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    reason: str = ""
    pending: bool = False
