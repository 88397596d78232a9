"""What a CA gives and to whom, as data: one profile per kind of certificate, read from a table of a TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from est import oids, refusals
from est.asn1.csrattrs import Attribute, dump_csrattrs
from est.asn1.der import integer, oid
from est.asn1.template import ExtensionPart, KeyPart, NamePart, Template, dump_template

USAGES = {
    "serverAuth": "1.3.6.1.5.5.7.3.1",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "ipsecIKE": "1.3.6.1.5.5.7.3.17",
    "cmcRA": oids.CMC_RA,
}
_KEYS = {
    "RSA": KeyPart(oids.RSA_ENCRYPTION),
    "RSA-2048": KeyPart(oids.RSA_ENCRYPTION, bits=2048),
    "RSA-3072": KeyPart(oids.RSA_ENCRYPTION, bits=3072),
    "RSA-4096": KeyPart(oids.RSA_ENCRYPTION, bits=4096),
    "EC": KeyPart(oids.EC_PUBLIC_KEY),
    "EC-P256": KeyPart(oids.EC_PUBLIC_KEY, oids.P256),
    "EC-P384": KeyPart(oids.EC_PUBLIC_KEY, oids.P384),
    "EC-P521": KeyPart(oids.EC_PUBLIC_KEY, oids.P521),
    "ML-DSA-44": KeyPart(oids.ML_DSA_44),
    "ML-DSA-65": KeyPart(oids.ML_DSA_65),
    "ML-DSA-87": KeyPart(oids.ML_DSA_87),
    "X25519": KeyPart(oids.X25519),
    "X448": KeyPart(oids.X448),
    "ML-KEM-768": KeyPart(oids.ML_KEM_768),
    "ML-KEM-1024": KeyPart(oids.ML_KEM_1024),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of certificate.

    Attributes:
        lifetime: seconds.
        usages: names of extended key usages.
        key: the type of key that is asked for in /csrattrs and of those that the server makes; "" for any.
        dns_suffixes: DNS names in a request must end with one of these; empty for any.
        approve: False makes requests wait, with 202, until somebody approves them.
        retry_after: seconds that a waiting client is told.
        link: requests must be linked to their TLS connection.
        template: /csrattrs sends a template of RFC 9908 beside the older elements.
        plain_keys: keys that the server makes may leave without encryption of their own.
        rename: a renewal may ask for other names (ChangeSubjectName).
    """

    name: str = "default"
    lifetime: int = 90 * 86400
    usages: tuple[str, ...] = ("clientAuth", "serverAuth")
    key: str = ""
    dns_suffixes: tuple[str, ...] = ()
    approve: bool = True
    retry_after: int = 60
    link: bool = False
    template: bool = False
    plain_keys: bool = False
    rename: bool = False

    def __post_init__(self) -> None:
        unknown = [one for one in self.usages if one not in USAGES]
        if unknown:
            raise refusals.unwanted(f"{unknown[0]!r} is no extended key usage; there are {', '.join(USAGES)}.")
        if self.key and self.key not in _KEYS:
            raise refusals.unwanted(f"{self.key!r} is no type of key; there are {', '.join(_KEYS)}.")
        if self.lifetime <= 0 or self.retry_after < 0:
            raise refusals.unwanted("A lifetime is more than 0 seconds, and a wait not less.")

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, object]) -> "Profile":
        """A profile from a table.

        Raises:
            RequestError: it has an entry that a profile does not have, or one of another type.
        """
        defaults = cls()
        values: dict[str, object] = {"name": name}
        known = {field.name for field in fields(cls)} - {"name"}
        for key, value in table.items():
            if key not in known:
                raise refusals.unwanted(f"A profile has no {key!r}; it has {', '.join(sorted(known))}.")
            given = tuple(str(one) for one in value) if isinstance(value, list) else value
            if type(given) is not type(getattr(defaults, key)):
                raise refusals.unwanted(f"{key!r} of the profile {name!r} has the wrong type.")
            values[key] = given
        return cls(**values)  # type: ignore[arg-type]  # each was compared with the type of its default above

    @property
    def key_part(self) -> KeyPart | None:
        """The type of key that is asked for, or None."""
        return _KEYS[self.key] if self.key else None

    def csrattrs(self) -> bytes:
        """What /csrattrs sends; b"" if nothing is asked for."""
        items: list[str | Attribute] = []
        if self.link:
            items.append(oids.CHALLENGE_PASSWORD)
        key = self.key_part
        if key is not None:
            items.append(_key_attribute(key))
        if self.template:
            items.append(Attribute(oids.CERTIFICATION_REQUEST_INFO_TEMPLATE, (dump_template(self._template()),)))
        return dump_csrattrs(items) if items else b""

    def _template(self) -> Template:
        link = (Attribute(oids.CHALLENGE_PASSWORD, (bytes.fromhex("1300"),)),) if self.link else ()
        return Template(
            subject=((NamePart("2.5.4.3", None),),),
            key=self.key_part,
            extensions=(ExtensionPart("2.5.29.17"),),
            attributes=link,
        )


def _key_attribute(key: KeyPart) -> Attribute:
    if key.curve:
        return Attribute(key.algorithm, (oid(key.curve),))
    return Attribute(key.algorithm, (integer(key.bits),) if key.bits else ())
