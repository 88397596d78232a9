"""What keys a certificate that renews itself has: of what type, in files or slots, new each time or one for all."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """The keys of one certificate.

    Attributes:
        slot: "" for files; otherwise the prefix of slots, PREFIX-000001 and on, or with `rekey` off the one slot.
        provider: where keys of slots are made.
        rekey: every certificate has a key of its own.
    """

    key_type: str = "EC-P256"
    slot: str = ""
    provider: str = ""
    rekey: bool = True

    def slot_for(self, number: str) -> str:
        """The slot for the pair of this number."""
        return f"{self.slot}-{number}" if self.rekey else self.slot
