"""One certificate that renews itself: a step that does what is due now and says when to come again."""

import ssl
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from est.client import ClientConfiguration, Enrolled, EstClient, Pending
from est.csr.demands import Demands
from est.csr.request import Wishes
from est.keys import Key
from est.service.generations import Generations
from est.service.next_key import KeyPlan
from est.service.schedule import Life, renew_at, retry_at
from est.service.standing import Standing
from est.trust.anchors import write_pem
from hsmbridge.core.errors import HsmBridgeError

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Watch:
    """What to keep alive.

    Attributes:
        key: what keys it has, and where they are.
        configuration: of the client; its credentials serve for the first enrolment and after an expiry.
        reload: run after a new certificate is in place; a list, not a shell line.
        anchors_file: where the CA certificates are kept; they are fetched again with each renewal.
        alert: run with the reason as its last argument after a failure.
    """

    name: str
    configuration: ClientConfiguration
    wishes: Wishes
    key: KeyPlan = field(default_factory=KeyPlan)
    reload: tuple[str, ...] = ()
    alert: tuple[str, ...] = ()
    anchors_file: Path | None = None


class Renewer:
    """Keeps one certificate alive; every renewal has a new key, unless its plan keeps one."""

    def __init__(self, watch: Watch, generations: Generations) -> None:
        self._watch = watch
        self._generations = generations
        self._configuration = watch.configuration
        self._failures = self._all_failures = self._renewals = 0
        self._reason = ""
        generations.recover()

    def standing(self, due: float) -> Standing:
        """How the certificate is; `due` is what the last step said."""
        chain, pending = self._generations.chain_pem(), bool(self._generations.pending)
        certificate = x509.load_pem_x509_certificate(chain) if chain else None
        return Standing(
            self._watch.name,
            f"{certificate.serial_number:x}" if certificate else "",
            Life.of(certificate).end if certificate else 0.0,
            due,
            self._renewals,
            self._all_failures,
            self._failures,
            self._reason,
            pending,
        )

    def step(self, now: float, *, forced: bool = False) -> float:
        """Do what is due at `now`; when to call again. Both in seconds since 1970. Failures are told, not raised.

        Args:
            forced: renew, due or not.
        """
        life: Life | None = None
        try:
            if not self._generations.told:
                # A crash came between the new certificate and the word of it.
                self._tell()
            identity = self._generations.identity()
            life = Life.of(identity.chain[0]) if identity else None
            due = renew_at(life, self._watch.name) if life else now
            if now < due and not forced:
                return due
            result = self._ask(expired=life is None or life.end <= now, now=now)
        except HsmBridgeError as problem:
            return self._failed(problem.message, now, life)
        except OSError as problem:
            # A full disk or a changed mode: the pair in use is untouched, so wait and try again.
            return self._failed(f"A file cannot be read or written: {problem.strerror}.", now, life)
        self._failures, self._reason = 0, ""
        if isinstance(result, Pending):
            return max(result.not_before, now + 1)
        self._renewals += 1
        return renew_at(Life.of(result.certificate), self._watch.name)

    def _ask(self, *, expired: bool, now: float) -> Enrolled | Pending:
        watch = self._watch
        identity = self._generations.identity()
        configuration = self._refreshed(self._configuration)
        key = self._generations.next_key(watch.key)
        kept = self._generations.pending
        if identity is not None and not expired:
            configuration = replace(configuration, identity=identity)
        with EstClient(configuration) as client:
            result: Enrolled | Pending
            if kept:
                pending = Pending.from_json(kept)
                wishes = (
                    Wishes.like(identity.chain[0]) if "reenroll" in pending.operation and identity else watch.wishes
                )
                result = client.resume(pending, key, wishes, Demands()) if pending.not_before <= now else pending
            elif identity is not None and not expired:
                result = client.reenroll(key, identity.chain[0])
            else:
                result = client.enroll(key, watch.wishes)
        if isinstance(result, Pending):
            self._generations.set_pending(result.to_json())
            return result
        _prove(key, result)
        self._generations.commit((result.certificate, *result.chain[:-1]))
        _log.info("certificate_renewed", name=watch.name, serial=f"{result.certificate.serial_number:x}")
        self._tell()
        return result

    def _refreshed(self, configuration: ClientConfiguration) -> ClientConfiguration:
        """The configuration with the CA certificates of now, which go into the anchors' file too (RFC 7030 4.1.3)."""
        watch = self._watch
        if watch.anchors_file is None:
            return configuration
        try:
            with EstClient(configuration) as client:
                found = client.cacerts()
        except HsmBridgeError as problem:
            _log.warning("cacerts_not_refreshed", name=watch.name, reason=problem.message)
            return configuration
        held = configuration.anchors
        if set(found.anchors) == set(held.explicit) and set(found.intermediates) == set(held.intermediates):
            return configuration
        write_pem(watch.anchors_file, (*found.anchors, *found.intermediates))
        _log.info("cacerts_changed", name=watch.name, anchors=len(found.anchors))
        anchors = replace(held, explicit=found.anchors, intermediates=found.intermediates)
        self._configuration = replace(configuration, anchors=anchors)
        return self._configuration

    def _tell(self) -> None:
        if self._run(self._watch.reload):
            self._generations.set_told()

    def _failed(self, reason: str, now: float, life: Life | None) -> float:
        self._failures += 1
        self._all_failures += 1
        self._reason = reason
        _log.warning("renewal_failed", name=self._watch.name, failures=self._failures, reason=reason)
        if self._watch.alert:
            self._run((*self._watch.alert, reason))
        return retry_at(now, self._failures, life)

    def _run(self, command: tuple[str, ...]) -> bool:
        """Run a command; whether it went well."""
        if not command:
            return True
        try:
            subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.SubprocessError) as problem:
            # The certificate is in place all the same; the consumer reads it when it next starts.
            _log.error("command_failed", name=self._watch.name, command=command[0], reason=type(problem).__name__)
            return False
        return True


def _prove(key: Key, got: Enrolled) -> None:
    """Have the new pair do what its consumers will, while the old one is still in place: RSA and EC keys sign once."""
    if isinstance(key.signer, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        key.use_for_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), (got.certificate, *got.chain[:-1]))
