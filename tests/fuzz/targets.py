"""The targets by name, and how often each is run. A target's module is imported by name, under instrumentation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Executions of a target.

    Attributes:
        always: in every run of the tests, with a fixed seed.
        long: with --all.
        instrumented: packages whose branches guide the search.
    """

    always: int
    long: int
    instrumented: tuple[str, ...] = ("hsmbridge",)


_EST = ("hsmbridge", "est", "asn1crypto")

TARGETS = {
    "p11kit": Share(20_000, 10_000_000),
    "p11kit_calls": Share(300, 100_000),
    "ssh_agent": Share(10_000, 2_000_000),
    "native": Share(10_000, 2_000_000),
    "keys": Share(4_000, 1_000_000, ("hsmbridge", "asn1crypto")),
    "certificates": Share(2_000, 1_000_000, ("hsmbridge", "asn1crypto")),
    "est_messages": Share(2_000, 1_000_000, _EST),
    "est_http": Share(4_000, 1_000_000, ("hsmbridge", "est", "h11", "email")),
    "est_server": Share(1_000, 300_000, _EST),
}
