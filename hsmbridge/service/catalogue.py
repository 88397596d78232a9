"""The catalogue of configured providers: which are available, what each can do, and which a new key goes to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hsmbridge.core.algorithms import Algorithm, KeyOperation
from hsmbridge.core.calls import Description
from hsmbridge.core.errors import HsmBridgeError, ProviderError, RequestError, Status
from hsmbridge.core.key_types import unknown_name
from hsmbridge.core.policy import Protection
from hsmbridge.providers.registry import SEALED_SCHEMES


@dataclass(frozen=True, slots=True)
class Entry:
    """One instance.

    Attributes:
        name, scheme, isolation: from the configuration.
        description: what it can do, once it was available; kept while it is away.
        reason: why it is not available, or None.
        pid: of its host process, or of the daemon itself.
    """

    name: str
    scheme: str
    isolation: str
    description: Description | None = None
    reason: HsmBridgeError | None = None
    pid: int = 0

    @property
    def available(self) -> bool:
        return self.reason is None and self.description is not None

    @property
    def keeps_elsewhere(self) -> bool:
        """Whether its keys are anywhere but in files; one that was never there is known by its scheme."""
        if self.description is None:
            return is_device(self.scheme)
        return self.description.protection is not Protection.FILE


def is_device(scheme: str) -> bool:
    """Whether providers of a scheme keep their keys themselves, and not sealed in the store."""
    return scheme not in SEALED_SCHEMES


@dataclass(frozen=True, slots=True)
class Choice:
    """The provider that a new key goes to, and the ones preferred that it could not go to."""

    provider: str
    description: Description
    fell_back_from: str


class ProviderCatalogue:
    """Every configured provider by instance name. Entries are replaced whole, so that any thread may read."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Args: one entry a configured instance, in the order of the configuration."""
        self._entries: dict[str, Entry] = {entry.name: entry for entry in entries}
        self._claims: dict[str, frozenset[tuple[str, KeyOperation]]] = {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    def available(self, name: str, description: Description, pid: int) -> None:
        """A provider came (back)."""
        self._claims[name] = frozenset(
            (claim.algorithm, KeyOperation(operation)) for claim in description.claims for operation in claim.operations
        )
        self._entries[name] = replace(self._entries[name], description=description, reason=None, pid=pid)

    def unavailable(self, name: str, reason: HsmBridgeError) -> None:
        """A provider is away; what it can do is remembered."""
        self._entries[name] = replace(self._entries[name], reason=reason, pid=0)

    def entry(self, name: str) -> Entry:
        """One instance. Raises RequestError or ProviderError where none has that name."""
        entry = self._entries.get(name)
        if entry is None:
            raise ProviderError(Status.PROVIDER_NOT_CONFIGURED, unknown_name("provider", name, self._entries))
        return entry

    def require(self, name: str, row: Algorithm, operation: KeyOperation) -> None:
        """Refuse what a provider does not claim. Raises RequestError (NOT_SUPPORTED)."""
        claims = self._claims.get(name)
        if claims is not None and (row.name, operation) not in claims:
            raise RequestError(Status.NOT_SUPPORTED, f"Provider {name} cannot {operation} with {row.name}.")

    def claims(self, name: str, row: Algorithm, operation: KeyOperation) -> bool:
        """Whether a provider claims an operation, as far as is known."""
        return (row.name, operation) in self._claims.get(name, frozenset())

    def require_offered(self, preferences: Iterable[str], algorithms: Iterable[str]) -> None:
        """Refuse algorithms that no provider of a list offers; what was never there may offer them all.

        Raises:
            ProviderError: PROVIDER_NOT_CONFIGURED.
            RequestError: NOT_SUPPORTED.
        """
        offered: set[str] = set()
        names = tuple(preferences)
        for name in names:
            description = self.entry(name).description
            if description is None:
                return
            offered.update(claim.algorithm for claim in description.claims)
        for wanted in algorithms:
            if wanted not in offered:
                raise RequestError(
                    Status.NOT_SUPPORTED,
                    f"{wanted} is offered by none of the slot's providers ({', '.join(names)}); choose another"
                    " algorithm or provider. `hsmbridge providers` tells what each offers.",
                )

    def choose(self, preferences: Iterable[str], key_type: str, *, fallback: bool, generate: bool = True) -> Choice:
        """The first provider of a preference list that can make such a key now.

        Args:
            preferences: instance names.
            key_type: what is to be made.
            fallback: a provider that keeps keys in files may stand in for one that keeps them in hardware.
            generate: the key is generated there; otherwise it comes from elsewhere and any available one will do.

        Raises:
            ProviderError: none is available; the message says why of the first.
            RequestError: NOT_SUPPORTED, none can make such a key.
        """
        passed: list[str] = []
        first_refusal: HsmBridgeError | None = None
        hardware_passed = False
        for name in preferences:
            entry = self.entry(name)
            description = entry.description
            if not entry.available or description is None:
                refusal: HsmBridgeError = entry.reason or ProviderError(
                    Status.PROVIDER_UNAVAILABLE, f"Provider {name} is not available yet; try again shortly."
                )
            elif generate and key_type not in description.key_types:
                refusal = RequestError(Status.NOT_SUPPORTED, f"Provider {name} cannot make keys of type {key_type}.")
            elif hardware_passed and description.protection is Protection.FILE and not fallback:
                refusal = RequestError(
                    Status.NOT_SUPPORTED, f"The slot does not allow its key to fall back to {name} (fallback)."
                )
            else:
                return Choice(name, description, ",".join(passed))
            first_refusal = first_refusal or refusal
            hardware_passed = hardware_passed or entry.keeps_elsewhere
            passed.append(name)
        if first_refusal is None:
            raise RequestError(Status.INVALID_ARGUMENT, "The list of providers is empty; name at least one.")
        raise first_refusal

    def first_with(self, wanted: str, row: Algorithm | None, operation: KeyOperation | None) -> str:
        """The provider for a keyless operation: the one named, else the first available that claims it."""
        if wanted:
            self.entry(wanted)
            if row is not None and operation is not None:
                self.require(wanted, row, operation)
            return wanted
        for entry in self._entries.values():
            if not entry.available or entry.description is None:
                continue
            if row is None or operation is None:
                if entry.description.random:
                    return entry.name
            elif self.claims(entry.name, row, operation):
                return entry.name
        what = "gives random bytes" if row is None else f"offers {row.name}"
        raise RequestError(Status.NOT_SUPPORTED, f"No available provider {what}.")
