"""CryptoStack: the public API over one daemon."""

import os

from hsmbridge.client.administration import SlotAdministration
from hsmbridge.client.bound import SlotHandle
from hsmbridge.client.calls import Buffer, octets
from hsmbridge.client.certificates import Certificates
from hsmbridge.client.data_plane import SHARED_FROM
from hsmbridge.client.deadline import DEFAULT_TIMEOUT, UNSET, Timeout
from hsmbridge.client.shared import Lifetime
from hsmbridge.core import messages as m


class CryptoStack(SlotAdministration, Certificates):
    """Everything that can be asked of a daemon. Blocking, safe for any number of threads, safe to fork.

    All stacks of a process that name the same socket share one connection. It is opened by the first call, again
    by the first call after it was lost, and anew in a child process; keys held by guards die with it, slots do not.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        lifetime: Lifetime | str = Lifetime.COUNTED,
    ) -> None:
        """Nothing is opened yet.

        Args:
            socket: path of the daemon's socket; None takes $HSMBRIDGE_SOCKET or the usual place.
            timeout: seconds that a call may take, None for no limit; each call can say otherwise.
            lifetime: "counted" closes the connection with the last stack, "fixed" keeps it until the process ends.

        Raises:
            RequestError: INVALID_ARGUMENT, or INVALID_CONFIGURATION for a path that no socket can have.
        """
        super().__init__(socket, timeout, Lifetime(lifetime))

    def slot(self, name: str) -> SlotHandle:
        """A slot by name, as an object. The daemon is not asked until it is used."""
        return SlotHandle(self, name)

    def digest(self, algorithm: str, data: Buffer, *, provider: str = "", timeout: Timeout = UNSET) -> bytes:
        """The digest of `data`. `provider` "" leaves the choice to the daemon."""
        given = octets(data)
        if len(given) >= SHARED_FROM:
            large = self._large_digest(algorithm, given, provider, timeout)
            if large is not None:
                return large.digest
        return self._perform(m.DigestReply, lambda: m.DigestRequest(algorithm, given, provider), timeout=timeout).digest

    def random(self, length: int, *, provider: str = "", timeout: Timeout = UNSET) -> bytes:
        """Random bytes, at most 64 KiB a call, from a provider's generator."""
        return self._perform(m.RandomReply, lambda: m.RandomRequest(length, provider), timeout=timeout).data

    def ping(self, payload: Buffer = b"", *, timeout: Timeout = UNSET) -> bytes:
        """The same bytes back from the daemon."""
        given = octets(payload)
        return self._perform(m.PingReply, lambda: m.PingRequest(given), timeout=timeout).payload

    def status(self, *, timeout: Timeout = UNSET) -> m.StatusReply:
        """The daemon process that answers, and who it takes the caller for."""
        return self._perform(m.StatusReply, m.StatusRequest, timeout=timeout)

    def providers(self, *, timeout: Timeout = UNSET) -> list[m.ProviderInfo]:
        """Every configured provider: whether it is available, what it can do, and what its token is."""
        return self._perform(m.ProvidersReply, m.ProvidersRequest, timeout=timeout).providers

    def pins(self, *, timeout: Timeout = UNSET) -> list[m.PinInfo]:
        """The PINs that PKCS#11 applications have for tokens: an operator is told of everybody's, others of theirs."""
        return self._perform(m.PinListReply, m.PinListRequest, timeout=timeout).pins

    def reset_pins(self, principal: str, token: str, *, timeout: Timeout = UNSET) -> bool:
        """Forget what PINs a principal has for a token, "*" where it stands for all providers: whether it had any.

        The token is then to be initialised again; keys stay. Only for operators (AccessError).
        """
        return self._perform(m.PinResetReply, lambda: m.PinResetRequest(principal, token), timeout=timeout).found

    def doctor(self, *, timeout: Timeout = UNSET) -> list[m.Finding]:
        """What an operator should know of the daemon, its store and its tokens."""
        return self._perform(m.DoctorReply, m.DoctorRequest, timeout=timeout).findings
