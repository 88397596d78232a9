"""A small EST site for tests: root, intermediate and server, on a real TLS socket."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from est.ca.authority import Authority, Issuer, new_intermediate, new_root
from est.ca.profile import Profile
from est.ca.record import Record
from est.client import ClientConfiguration, EstAddress
from est.csr.demands import Demands
from est.csr.request import Wishes, plan, sign_request
from est.keys import Key, SoftwareKey
from est.server.application import EstApplication
from est.server.authentication import Authenticator
from est.server.listener import Handler, Listener, server_context
from est.server.service import EstService, ServiceSettings
from est.tls.connection import ClientIdentity, TlsLimits
from est.trust.anchors import TrustAnchors

TLS12 = TlsLimits(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
TLS13 = TlsLimits(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
USERS = {"device": "a secret for the first enrolment"}


def ec_key() -> SoftwareKey:
    return SoftwareKey(ec.generate_private_key(ec.SECP256R1()))


def named(common_name: str, *dns: str) -> Wishes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return Wishes.of(subject, [x509.DNSName(one) for one in dns])


def issue(authority: Authority, key: Key, wishes: Wishes, profile: Profile | None = None) -> x509.Certificate:
    request = sign_request(plan(wishes, Demands(), key.signer.public_key()), key)
    return authority.issue(x509.load_der_x509_csr(request), profile or Profile(), "test")


@dataclass
class Site:
    """A CA and its server; `handler` may be wrapped before `serving`."""

    root: Issuer
    authority: Authority
    service: EstService
    handler: Handler
    server_key: Key
    server_chain: tuple[x509.Certificate, ...]
    client_anchors: list[x509.Certificate] = field(default_factory=list)

    @contextmanager
    def serving(self, wrap: Callable[[Handler], Handler] = lambda handler: handler) -> Iterator[Listener]:
        anchors = [self.root.certificate, self.authority.issuer.certificate, *self.client_anchors]
        context = server_context(self.server_key, self.server_chain, anchors)
        with Listener(wrap(self.handler), context, idle=10) as listener:
            yield listener

    def client(self, listener: Listener, **changes: object) -> ClientConfiguration:
        anchors = TrustAnchors((self.root.certificate,), (self.authority.issuer.certificate,))
        known = ClientConfiguration(EstAddress("localhost", listener.port), anchors, timeout=20)
        return replace(known, **changes)  # type: ignore[arg-type]  # tests name the fields that they change

    def identity(self, common_name: str = "device", *dns: str, profile: Profile | None = None) -> ClientIdentity:
        key = ec_key()
        certificate = issue(self.authority, key, named(common_name, *dns), profile)
        return ClientIdentity(key, (certificate, self.authority.issuer.certificate))


def make_site(
    profile: Profile | None = None,
    *,
    users: dict[str, str] | None = None,
    server_name: str = "localhost",
    server_usages: tuple[str, ...] = ("serverAuth",),
    settings: ServiceSettings | None = None,
    more_anchors: tuple[x509.Certificate, ...] = (),
    key: Callable[[], Key] = ec_key,
    digest: bool = True,
) -> Site:
    root = new_root(key(), "Test Root")
    issuer = new_intermediate(root, key(), "Test Issuing CA")
    authority = Authority(issuer, Record(":memory:"))
    chosen = settings or ServiceSettings()
    service = EstService(
        authority,
        Authenticator(USERS if users is None else users, more_anchors, digest=digest),
        replace(chosen, profile=profile or chosen.profile),
    )
    server_key = ec_key()
    server_profile = Profile("server", lifetime=int(timedelta(days=1).total_seconds()), usages=server_usages)
    certificate = issue(authority, server_key, named(server_name, server_name), server_profile)
    return Site(
        root,
        authority,
        service,
        EstApplication({"": service}).handle,
        server_key,
        (certificate, issuer.certificate),
        list(more_anchors),
    )
