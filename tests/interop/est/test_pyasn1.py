"""The ASN.1 modules of the RFCs as pyasn1-alt-modules has them, against what we write and read."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mlkem
from pyasn1.codec.der import decoder, encoder  # type: ignore[import-untyped]  # has no types
from pyasn1.type import namedtype, univ  # type: ignore[import-untyped]  # has no types
from pyasn1_alt_modules import rfc5280, rfc5652, rfc6402, rfc8951, rfc9629, rfc9908  # type: ignore[import-untyped]  # has no types

from est import oids
from est.asn1 import cmc, cmc_pop, der
from est.asn1.change_subject_name import parse_change_subject_name
from est.asn1.csrattrs import Attribute, dump_csrattrs, parse_csrattrs
from est.asn1.template import ExtensionPart, KeyPart, NamePart, Template, dump_template, parse_template
from est.cms.enveloped import Recipient
from est.cms.possession import answer_challenge, make_challenge
from est.cms.receiver import software_receiver
from est.csr.demands import Demands
from est.csr.request import Wishes, change_subject_name, plan, sign_request, unsigned_request
from tests.integration.est.lab import ec_key, named

LINK = (Attribute(oids.CHALLENGE_PASSWORD, (b"\x13\x00",)),)
TEMPLATES = [
    Template(attributes=LINK),
    Template(((NamePart("2.5.4.3", None),), (NamePart("2.5.4.10", b"\x0c\x07Example"),)), attributes=LINK),
    Template(key=KeyPart(oids.RSA_ENCRYPTION, bits=3072), attributes=LINK),
    Template(key=KeyPart(oids.EC_PUBLIC_KEY, oids.P384), attributes=LINK),
    Template(extensions=(ExtensionPart("2.5.29.17"), ExtensionPart("2.5.29.15", True, b"\x03\x02\x07\x80"))),
]
PKI_DATA = univ.Sequence(
    componentType=namedtype.NamedTypes(
        namedtype.NamedType("controls", univ.Any()),
        namedtype.NamedType("requests", univ.SequenceOf(componentType=rfc6402.TaggedRequest())),
        namedtype.NamedType("cms", univ.Any()),
        namedtype.NamedType("others", univ.Any()),
    )
)


def reread(value: bytes, spec: object) -> bytes:
    """What the other program writes after it read what we wrote."""
    found, rest = decoder.decode(value, asn1Spec=spec)
    assert not rest
    written: bytes = encoder.encode(found)
    return written


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates(template: Template) -> None:
    written = dump_template(template)
    assert reread(written, rfc9908.CertificationRequestInfoTemplate()) == written
    assert parse_template(written) == template


def test_a_template_that_the_other_program_made() -> None:
    theirs = rfc9908.CertificationRequestInfoTemplate()
    theirs["version"] = 0
    name = rfc9908.SingleAttributeTemplate()
    name["type"] = rfc5280.id_at_commonName
    relative = rfc9908.RelativeDistinguishedNameTemplate()
    relative[0] = name
    names = rfc9908.RDNSequenceTemplate()
    names[0] = relative
    theirs["subject"]["rdnSequence"] = names
    theirs["subjectPKInfo"]["algorithm"]["algorithm"] = univ.ObjectIdentifier(oids.EC_PUBLIC_KEY)
    theirs["subjectPKInfo"]["algorithm"]["parameters"] = univ.Any(der.oid(oids.P256))
    theirs["attributes"][0]["type"] = univ.ObjectIdentifier(oids.CHALLENGE_PASSWORD)
    theirs["attributes"][0]["values"][0] = univ.Any(b"\x13\x00")
    found = parse_template(encoder.encode(theirs))
    assert found.subject == ((NamePart("2.5.4.3", None),),)
    assert found.key == KeyPart(oids.EC_PUBLIC_KEY, oids.P256)
    assert found.attributes == (Attribute(oids.CHALLENGE_PASSWORD, (b"\x13\x00",)),)


def test_attributes() -> None:
    items = (
        oids.CHALLENGE_PASSWORD,
        Attribute(oids.RSA_ENCRYPTION, (der.integer(4096),)),
        Attribute(oids.CERTIFICATION_REQUEST_INFO_TEMPLATE, (dump_template(TEMPLATES[1]),)),
    )
    written = dump_csrattrs(items)
    assert reread(written, rfc8951.CsrAttrs()) == written
    assert parse_csrattrs(written).items == items


def test_cmc() -> None:
    key = ec_key()
    csr = sign_request(plan(named("device"), Demands(), key.signer.public_key()), key)
    nonce = cmc.Control(1, oids.CMC_SENDER_NONCE, (der.octets(b"nonce"),))
    written = cmc.dump_request(cmc.CmcRequest((nonce,), ((2, csr),)))
    found, rest = decoder.decode(written, asn1Spec=PKI_DATA)
    assert not rest
    request = found["requests"][0]
    assert int(request["tcr"]["bodyPartID"]) == 2
    assert encoder.encode(request["tcr"]["certificationRequest"]) == csr
    assert encoder.encode(found) == written


@pytest.mark.parametrize("info", [cmc.StatusInfo(0, (1,)), cmc.StatusInfo(2, (1, 2), "no", 9)])
def test_cmc_status(info: cmc.StatusInfo) -> None:
    written = cmc.dump_status(info)
    assert reread(written, rfc6402.CMCStatusInfoV2()) == written
    assert cmc.parse_status(written) == info


def test_a_pending_cmc_status_that_the_other_program_made() -> None:
    theirs = rfc6402.CMCStatusInfoV2()
    theirs["cMCStatus"] = int(cmc.CmcStatus.PENDING)
    theirs["bodyList"][0]["bodyPartID"] = 7
    theirs["otherInfo"]["pendInfo"]["pendToken"] = b"token"
    theirs["otherInfo"]["pendInfo"]["pendTime"] = "20300101000000Z"
    found = cmc.parse_status(encoder.encode(theirs))
    assert (found.status, found.parts, found.pending_token) == (cmc.CmcStatus.PENDING, (7,), b"token")


def test_the_proof_of_a_key_that_does_not_sign() -> None:
    receiver = software_receiver(mlkem.MLKEM768PrivateKey.generate())
    csr = unsigned_request(plan(named("device"), Demands(), receiver.public_key), receiver.public_key)
    request = cmc.dump_tagged_request(2, csr)
    made = make_challenge(request, Recipient(receiver.public_key)).encrypted
    challenge = cmc_pop.dump_encrypted_pop(made)
    theirs, rest = decoder.decode(challenge, asn1Spec=rfc6402.EncryptedPOP())
    assert not rest
    assert encoder.encode(theirs) == challenge
    theirs_request = theirs["request"]["tcr"]["certificationRequest"]
    assert theirs_request["signatureAlgorithm"]["algorithm"] == rfc6402.id_alg_noSignature
    value, _ = decoder.decode(theirs_request["signature"].asOctets(), asn1Spec=rfc6402.NoSignatureValue())
    assert len(value) == 20
    sealed, _ = decoder.decode(theirs["cms"]["content"], asn1Spec=rfc5652.EnvelopedData())
    other = sealed["recipientInfos"][0]["ori"]
    assert other["oriType"] == rfc9629.id_ori_kem
    assert reread(other["oriValue"], rfc9629.KEMRecipientInfo()) == other["oriValue"]
    proof = cmc_pop.dump_decrypted_pop(answer_challenge(made, 2, request, receiver.opener))
    assert reread(proof, rfc6402.DecryptedPOP()) == proof


@pytest.mark.parametrize("names", [named("x"), named("x", "x.example"), Wishes.of(None, [x509.DNSName("x.example")])])
def test_other_names_for_a_renewal(names: Wishes) -> None:
    written = change_subject_name(names).values[0]
    assert reread(written, rfc6402.ChangeSubjectName()) == written
    held = parse_change_subject_name(written)
    assert (held.subject or Wishes().subject, held.alternative_names) == (names.subject, names.alternative_names)
