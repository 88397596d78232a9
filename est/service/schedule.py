"""When to renew: at a part of the life, spread so that a fleet does not come at once; after failures, ever later."""

import hashlib
from dataclasses import dataclass

from cryptography import x509

FRACTION = 2 / 3
JITTER = 0.1
"""The part of the life over which renewals are spread, before the due time."""
FIRST_RETRY = 30.0
LAST_RETRY = 3600.0
"""Seconds between attempts, after one failure and at most."""


@dataclass(frozen=True, slots=True)
class Life:
    """From when to when a certificate is valid; seconds since 1970."""

    begin: float
    end: float

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "Life":
        """The life of a certificate."""
        return cls(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())


def renew_at(life: Life, name: str) -> float:
    """When to renew; the same each time it is asked, so a restart moves nothing, and different for every name."""
    spread = int.from_bytes(hashlib.sha256(f"{name}:{life.end}".encode()).digest()[:4], "big") / 2**32
    return life.begin + (life.end - life.begin) * (FRACTION - JITTER * spread)


def retry_at(now: float, failures: int, life: Life | None) -> float:
    """When to try again after that many failures in a row; sooner where the end of the life is near."""
    pause = min(FIRST_RETRY * 2.0 ** min(failures - 1, 20), LAST_RETRY)
    if life is not None and life.end > now:
        pause = min(pause, max((life.end - now) / 10, 1.0))
    return now + pause
