"""Certificates, trust stores and CRLs shown to people and in JSON."""

from collections.abc import Sequence

from hsmbridge.cli.options import Client
from hsmbridge.cli.output import Json, print_json, print_pairs, print_table, timestamp
from hsmbridge.client import AccessInfo, CertificateFacts, CertInfo, CrlInfo, TrustInfo
from hsmbridge.client.key_formats.certificates import certificate_pem, crl_pem


def facts_document(facts: CertificateFacts) -> dict[str, Json]:
    """What a certificate says, as JSON documents carry it."""
    return {
        "subject": facts.subject,
        "issuer": facts.issuer,
        "serial": facts.serial,
        "not_before": timestamp(facts.not_before),
        "not_after": timestamp(facts.not_after),
        "names": list(facts.names),
        "authority": facts.ca,
        "key_algorithm": facts.key_algorithm,
        "sha256": facts.fingerprint.hex(),
        "certificate": certificate_pem(facts.certificate) if facts.certificate else None,
    }


def certificate_document(info: CertInfo) -> dict[str, Json]:
    """A stored certificate."""
    return {
        "name": info.name,
        "slot": info.slot or None,
        "slot_version": info.slot_version or None,
        "chain": [facts_document(facts) for facts in info.chain],
        **_common(info),
    }


def trust_document(info: TrustInfo) -> dict[str, Json]:
    """A trust store."""
    return {"name": info.name, "anchors": [facts_document(facts) for facts in info.anchors], **_common(info)}


def crl_document(info: CrlInfo) -> dict[str, Json]:
    """A CRL."""
    return {
        "name": info.name,
        "issuer": info.issuer,
        "number": info.number or None,
        "this_update": timestamp(info.this_update),
        "next_update": timestamp(info.next_update) if info.next_update else None,
        "revoked": info.revoked,
        "crl": crl_pem(info.crl) if info.crl else None,
        **_common(info),
    }


def print_certificate(client: Client, info: CertInfo) -> None:
    """A stored certificate on stdout."""
    if client.as_json:
        print_json(certificate_document(info))
        return
    leaf = info.chain[0]
    version = f" (version {info.slot_version})" if info.slot_version else ""
    print_pairs(
        [
            ("name", info.name),
            ("subject", leaf.subject),
            ("names", ", ".join(leaf.names)),
            ("issuer", leaf.issuer),
            ("serial", leaf.serial),
            ("valid from", timestamp(leaf.not_before)),
            ("valid until", timestamp(leaf.not_after)),
            ("SHA-256", leaf.fingerprint.hex()),
            ("key slot", f"{info.slot}{version}" if info.slot else ""),
        ]
    )
    if len(info.chain) > 1:
        print_facts("CHAIN", info.chain[1:])
    print_access(info.access)


def print_trust_store(client: Client, info: TrustInfo) -> None:
    """A trust store on stdout."""
    if client.as_json:
        print_json(trust_document(info))
        return
    print_pairs([("name", info.name), ("anchors", f"{len(info.anchors)}"), ("changed", timestamp(info.changed))])
    if info.anchors:
        print_facts("ANCHOR", info.anchors)
    print_access(info.access)


def print_crl(client: Client, info: CrlInfo) -> None:
    """A CRL on stdout."""
    if client.as_json:
        print_json(crl_document(info))
        return
    print_pairs(
        [
            ("name", info.name),
            ("issuer", info.issuer),
            ("number", info.number),
            ("this update", timestamp(info.this_update)),
            ("next update", timestamp(info.next_update) if info.next_update else ""),
            ("revoked", f"{info.revoked}"),
        ]
    )
    print_access(info.access)


def print_facts(heading: str, certificates: Sequence[CertificateFacts]) -> None:
    """Certificates as a table."""
    print_table(
        (heading, "VALID UNTIL", "SHA-256"),
        [(facts.subject, timestamp(facts.not_after), facts.fingerprint.hex()) for facts in certificates],
    )


def print_access(access: Sequence[AccessInfo]) -> None:
    """An access list, nothing where there is none."""
    if access:
        print_table(("WHO", "ROLE"), [(entry.principal, entry.role.value) for entry in access])


def _common(info: CertInfo | TrustInfo | CrlInfo) -> dict[str, Json]:
    return {
        "generation": info.generation,
        "created": timestamp(info.created),
        "changed": timestamp(info.changed),
        "access": [{"principal": entry.principal, "role": entry.role.value} for entry in info.access],
    }
