"""Certificates for keys that do not sign: full CMC, in which they open a challenge of the CA (RFC 5272 section 6.7)."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from est import oids
from est.asn1.cmc import CmcRequest, Control, StatusInfo, dump_request, dump_tagged_request, find, statuses
from est.asn1.cmc import parse_response as controls_of
from est.asn1.cmc_pop import DecryptedPop, dump_decrypted_pop, parse_encrypted_pop
from est.asn1.der import integer
from est.ca.profile import Profile
from est.client import Enrolled, EstClient, Pending
from est.cms.possession import answer_challenge
from est.cms.receiver import Receiver, software_receiver
from est.cms.signed import dump_signed, parse_signed
from est.csr.demands import Demands
from est.csr.linking import Link
from est.csr.request import plan, unsigned_request
from est.http.payload import decode, encode
from est.server.messages import Peer, ServerRequest
from est.tls.connection import ClientIdentity
from hsmbridge.core.errors import AccessError, RequestError
from tests.integration.est.lab import TLS12, TLS13, Site, make_site, named

KEYS: dict[str, Callable[[], PrivateKeyTypes]] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "EC-P256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EC-P521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "X25519": x25519.X25519PrivateKey.generate,
    "X448": x448.X448PrivateKey.generate,
    "ML-KEM-768": mlkem.MLKEM768PrivateKey.generate,
    "ML-KEM-1024": mlkem.MLKEM1024PrivateKey.generate,
}
ENCIPHERS = {"RSA", "ML-KEM-768", "ML-KEM-1024"}


def usage_of(certificate: x509.Certificate) -> x509.KeyUsage:
    return certificate.extensions.get_extension_for_class(x509.KeyUsage).value


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_does_not_sign_gets_a_certificate_by_opening_the_challenge(kind: str) -> None:
    site = make_site(users={})
    key = software_receiver(KEYS[kind]())
    with site.serving() as listener, EstClient(site.client(listener, identity=site.identity())) as client:
        got = client.full_cmc(key, named("receiver"))
    assert isinstance(got, Enrolled)
    assert got.certificate.public_key() == key.public_key
    usage = usage_of(got.certificate)
    assert not usage.digital_signature
    assert usage.key_encipherment == (kind in ENCIPHERS)
    assert usage.key_agreement == (kind not in ENCIPHERS)


@pytest.mark.parametrize(("tls", "link"), [(TLS12, Link.REQUIRE), (TLS13, Link.EXPORTER)], ids=["TLS 1.2", "TLS 1.3"])
def test_the_request_is_linked_to_its_connection_too(tls: object, link: Link) -> None:
    site = make_site(Profile(link=True), users={})
    key = software_receiver(KEYS["X25519"]())
    with (
        site.serving() as listener,
        EstClient(site.client(listener, identity=site.identity(), tls=tls, link=link)) as client,
    ):
        assert isinstance(client.full_cmc(key, named("receiver"), client.csrattrs()), Enrolled)


def test_a_proof_is_given_once_and_the_approval_is_waited_for_after_it() -> None:
    site = make_site(Profile(approve=False, retry_after=0), users={})
    key = software_receiver(KEYS["ML-KEM-768"]())
    with site.serving() as listener, EstClient(site.client(listener, identity=site.identity())) as client:
        first = client.full_cmc(key, named("receiver"))
        assert isinstance(first, Pending)
        (waiting,) = site.authority.record.waiting()
        site.authority.record.approve(waiting.id)
        assert isinstance(client.resume(Pending.from_json(first.to_json()), key, named("receiver")), Enrolled)


def test_who_does_not_have_the_key_gets_no_certificate_for_it() -> None:
    site = make_site(users={})
    ours, theirs = (software_receiver(KEYS["EC-P256"]()) for _ in range(2))
    with (
        site.serving() as listener,
        EstClient(site.client(listener, identity=site.identity())) as client,
        pytest.raises(AccessError, match="not for this key"),
    ):
        client.full_cmc(Receiver(theirs.public_key, ours.opener), named("thief"))
    assert not [one for one in site.authority.record.certificates() if one.subject == "CN=thief"]


def test_such_a_key_needs_another_certificate_to_ask_with() -> None:
    site = make_site()
    with (
        site.serving() as listener,
        EstClient(site.client(listener)) as client,
        pytest.raises(RequestError, match="does not sign"),
    ):
        client.full_cmc(software_receiver(KEYS["X25519"]()), named("receiver"))


def test_an_unsigned_request_is_taken_by_full_cmc_alone() -> None:
    site = make_site(users={})
    identity = site.identity()
    request = unsigned_request(
        plan(named("x"), Demands(), identity.chain[0].public_key()), identity.chain[0].public_key()
    )
    with pytest.raises(AccessError, match="full CMC"):
        site.service.checked_request(request, Peer(identity.chain))


class Conversation:
    """What a client says to the server's handler, message by message, proofs of any kind among it."""

    def __init__(self, site: Site, identity: ClientIdentity, receiver: Receiver) -> None:
        self._site, self._identity = site, identity
        self.request = unsigned_request(plan(named("x"), Demands(), receiver.public_key), receiver.public_key)
        self.tagged = dump_tagged_request(3, self.request)

    def say(self, *controls: Control, transaction: int = 7) -> tuple[StatusInfo, bytes | None]:
        all_controls = (Control(1, oids.CMC_TRANSACTION_ID, (integer(transaction),)), *controls)
        data = dump_request(CmcRequest(all_controls, ((3, self.request),)))
        message = dump_signed(oids.CCT_PKI_DATA, data, self._identity.key, self._identity.chain[0])
        headers = {"content-type": "application/pkcs7-mime; smime-type=CMC-request"}
        asked = ServerRequest("POST", "/.well-known/est/fullcmc", headers, encode(message, 0))
        answer = self._site.service.handle("fullcmc", asked, Peer(self._identity.chain))
        told = controls_of(parse_signed(decode(answer.body)).content)
        return statuses(told)[0], find(told, oids.CMC_ENCRYPTED_POP)


def proof_control(proof: DecryptedPop) -> Control:
    return Control(4, oids.CMC_DECRYPTED_POP, (dump_decrypted_pop(proof),))


@pytest.fixture
def conversation() -> tuple[Conversation, Receiver]:
    site = make_site(users={})
    receiver = software_receiver(KEYS["X25519"]())
    return Conversation(site, site.identity(), receiver), receiver


def test_a_challenge_is_answered_once_by_the_right_proof_in_its_transaction(
    conversation: tuple[Conversation, Receiver],
) -> None:
    talk, receiver = conversation
    status, challenge = talk.say()
    assert (status.status, status.failure) == (6, 8)
    assert challenge is not None
    proof = answer_challenge(parse_encrypted_pop(challenge), 3, talk.tagged, receiver.opener)
    assert talk.say(proof_control(proof), transaction=8)[0].status == 2, "another transaction"
    assert talk.say(proof_control(proof))[0].status == 0
    assert talk.say(proof_control(proof))[0].status == 2, "the proof is used up"


@pytest.mark.parametrize(
    "change", [{"proof": bytes(32)}, {"part": 4}, {"pop_algorithm": oids.SHA256}], ids=["value", "part", "algorithm"]
)
def test_a_wrong_proof_is_refused_and_ends_its_challenge(
    conversation: tuple[Conversation, Receiver], change: dict[str, object]
) -> None:
    talk, receiver = conversation
    _, challenge = talk.say()
    assert challenge is not None
    proof = answer_challenge(parse_encrypted_pop(challenge), 3, talk.tagged, receiver.opener)
    wrong = replace(proof, **change)  # type: ignore[arg-type]  # the cases name fields with their types
    status, _ = talk.say(proof_control(wrong))
    assert (status.status, status.failure) == (2, 9)
    assert talk.say(proof_control(proof))[0].status == 2


def test_a_challenge_about_something_else_is_not_answered(conversation: tuple[Conversation, Receiver]) -> None:
    talk, receiver = conversation
    _, der = talk.say()
    assert der is not None
    challenge = parse_encrypted_pop(der)
    with pytest.raises(AccessError, match="another request"):
        answer_challenge(challenge, 3, dump_tagged_request(4, talk.request), receiver.opener)
    with pytest.raises(AccessError, match="witness"):
        answer_challenge(replace(challenge, witness=bytes(32)), 3, talk.tagged, receiver.opener)
    with pytest.raises(RequestError, match="algorithm"):
        answer_challenge(replace(challenge, pop_algorithm=oids.SHA1), 3, talk.tagged, receiver.opener)
