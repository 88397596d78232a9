"""What a server's attributes mean for a request, and what is not taken from a server."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from est import oids
from est.asn1 import der
from est.asn1.csrattrs import Attribute, CsrAttrs, dump_csrattrs, parse_csrattrs
from est.asn1.template import ExtensionPart, KeyPart, NamePart, Template, dump_template, extension_attribute
from est.csr.demands import DemandPolicy, Demands, demands_of
from est.csr.request import Wishes, plan, sign_request
from est.keys import SoftwareKey
from hsmbridge.core.errors import AccessError, RequestError, WireError

KEY = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
WISHES = Wishes.of(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")]), [x509.DNSName("device.example")])


def demands(*items: str | Attribute, policy: DemandPolicy | None = None) -> Demands:
    return demands_of(parse_csrattrs(dump_csrattrs(items)), policy)


def requested(*parts: ExtensionPart) -> Attribute:
    return extension_attribute(parts)


def template(one: Template) -> Attribute:
    return Attribute(oids.CERTIFICATION_REQUEST_INFO_TEMPLATE, (dump_template(one),))


def test_every_element_is_honoured() -> None:
    usage = ExtensionPart("2.5.29.15", True, b"\x03\x02\x07\x80")
    found = demands(
        oids.CHALLENGE_PASSWORD,
        oids.ECDSA_WITH_SHA384,
        "2.5.29.14",
        Attribute(oids.EC_PUBLIC_KEY, (der.oid(oids.P256),)),
        requested(usage),
    )
    assert found.challenge_password
    assert found.key == KeyPart(oids.EC_PUBLIC_KEY, oids.P256)
    assert found.digests == ("sha384",)
    request = x509.load_der_x509_csr(sign_request(plan(WISHES, found, KEY.signer.public_key()), KEY))
    assert request.signature_algorithm_oid.dotted_string == oids.ECDSA_WITH_SHA384
    held = {one.oid.dotted_string for one in request.extensions}
    assert held == {"2.5.29.14", "2.5.29.15", "2.5.29.17"}


def test_what_is_not_known_is_ignored_and_listed() -> None:
    found = demands("1.3.6.1.1.1.1.22", Attribute("1.3.6.1.4.1.1.2", (der.integer(1),)))
    assert found == Demands(ignored=("1.3.6.1.1.1.1.22", "1.3.6.1.4.1.1.2"))


def test_a_known_element_that_breaks_its_rules_is_refused() -> None:
    request = requested(ExtensionPart("2.5.29.15", True, b"\x03\x02\x07\x80"))
    twice = Attribute(request.type, (*request.values, *request.values))
    for items in (
        (request, request),
        (twice,),
        (Attribute(oids.EC_PUBLIC_KEY, (der.oid(oids.P256), der.oid(oids.P384))),),
        (Attribute(oids.EC_PUBLIC_KEY, (der.integer(1),)),),
        (Attribute(oids.EC_PUBLIC_KEY), Attribute(oids.RSA_ENCRYPTION)),
        (Attribute(oids.CERTIFICATION_REQUEST_INFO_TEMPLATE, (der.integer(1),)),),
    ):
        with pytest.raises(WireError):
            demands(*items)


def test_a_template_replaces_the_older_elements() -> None:
    asked = Template(
        subject=((NamePart("2.5.4.10", b"\x0c\x07Example"),), (NamePart("2.5.4.3", None),)),
        key=KeyPart(oids.EC_PUBLIC_KEY, oids.P256),
        extensions=(ExtensionPart("2.5.29.17", True),),
    )
    found = demands(oids.CHALLENGE_PASSWORD, Attribute(oids.RSA_ENCRYPTION, (der.integer(4096),)), template(asked))
    assert not found.challenge_password
    request = x509.load_der_x509_csr(sign_request(plan(WISHES, found, KEY.signer.public_key()), KEY))
    assert [one.value for one in request.subject] == ["Example", "device"]
    assert request.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_what_a_template_leaves_to_the_client_and_the_client_lacks_is_named() -> None:
    for asked, what in (
        (Template(subject=((NamePart("2.5.4.5", None),),)), r"2\.5\.4\.5"),
        (Template(extensions=(ExtensionPart("2.5.29.37"),)), r"2\.5\.29\.37"),
    ):
        with pytest.raises(RequestError, match=what):
            plan(WISHES, demands(template(asked)), KEY.signer.public_key())


def test_the_length_of_an_rsa_key_comes_from_the_placeholder() -> None:
    found = demands(template(Template(key=KeyPart(oids.RSA_ENCRYPTION, bits=3072))))
    with pytest.raises(RequestError, match="3072"):
        plan(WISHES, found, rsa.generate_private_key(65537, 2048).public_key())


@pytest.mark.parametrize("in_template", [False, True])
@pytest.mark.parametrize(
    "extension",
    [
        ExtensionPart("2.5.29.19", True, x509.BasicConstraints(ca=True, path_length=None).public_bytes()),
        ExtensionPart("2.5.29.15", True, b"\x03\x02\x02\x04"),
        ExtensionPart("2.5.29.37", False, x509.ExtendedKeyUsage([x509.ObjectIdentifier(oids.CMC_RA)]).public_bytes()),
        ExtensionPart(
            "2.5.29.37", False, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]).public_bytes()
        ),
    ],
    ids=["CA", "keyCertSign", "cmcRA", "any usage"],
)
def test_power_over_others_is_not_asked_for_on_a_servers_word(extension: ExtensionPart, in_template: bool) -> None:
    item = template(Template(extensions=(extension,))) if in_template else requested(extension)
    with pytest.raises(AccessError):
        demands(item)
    assert demands(item, policy=DemandPolicy(allow_ca=True)).extensions == (extension,)


def test_no_attributes_are_no_demands() -> None:
    assert demands_of(CsrAttrs()) == Demands()
    assert parse_csrattrs(b"") == parse_csrattrs(b"\x30\x00") == CsrAttrs()
