"""Providers as PKCS#11 slots with a token, and the mechanisms that each offers, from what the providers claim."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import ALGORITHMS, Algorithm, KeyOperation, Scheme
from hsmbridge.core.calls import Claim
from hsmbridge.core.key_types import KEY_TYPES, Family
from hsmbridge.frontends.p11kit.numbers import HASH_OF, Ckm, MechanismFlag
from hsmbridge.frontends.p11kit.settings import TokenView
from hsmbridge.service.catalogue import is_device

F = MechanismFlag

MERGED_LABEL: Final = "hsmbridge"
ALL_PROVIDERS: Final = "*"
"""In place of a provider's name, the token that stands for all of them."""
_MANUFACTURER: Final = "hsmbridge"

_FLAG: Final = {
    KeyOperation.SIGN: F.SIGN,
    KeyOperation.VERIFY: F.VERIFY,
    KeyOperation.ENCRYPT: F.ENCRYPT,
    KeyOperation.DECRYPT: F.DECRYPT,
    KeyOperation.WRAP: F.WRAP,
    KeyOperation.UNWRAP: F.UNWRAP,
    KeyOperation.AGREE: F.DERIVE,
}
_ECDSA_HASHING: Final = (Ckm.ECDSA_SHA256, Ckm.ECDSA_SHA384, Ckm.ECDSA_SHA512)
BESIDE: Final[Mapping[Scheme, tuple[int, ...]]] = {
    Scheme.RSASSA_PKCS1: (Ckm.RSA_PKCS,),
    Scheme.RSASSA_PSS: (Ckm.RSA_PKCS_PSS,),
    Scheme.ECDSA: (Ckm.ECDSA, *_ECDSA_HASHING),
}
"""Mechanisms that a scheme serves beside that of each of its rows."""

_SERVED: Final = frozenset(
    (
        *(Scheme.RSASSA_PKCS1, Scheme.RSASSA_PSS, Scheme.RSAES_OAEP, Scheme.RSAES_PKCS1, Scheme.ECDSA, Scheme.ECDH),
        *(Scheme.GCM, Scheme.CBC, Scheme.CTR, Scheme.CFB, Scheme.HMAC, Scheme.CMAC),
    )
)
_DECRYPT_ONLY: Final = frozenset((Scheme.RSAES_PKCS1,))
_GENERATED: Final = frozenset((Family.RSA, Family.EC, Family.AES, Family.HMAC, Family.SECRET))


class MechanismInfo(NamedTuple):
    """CK_MECHANISM_INFO: sizes in bits for RSA and EC keys, in bytes for others."""

    least: int
    most: int
    flags: int


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """One PKCS#11 slot.

    Attributes:
        number: CK_SLOT_ID.
        name: of its provider, or `ALL_PROVIDERS`.
        providers: those behind it, in the order of the configuration.
        label, manufacturer, model, serial: of CK_TOKEN_INFO.
        firmware: of the device, or "".
        hardware: whether all keys are kept by devices.
        present: whether any of its providers can be used.
        mechanisms: what is offered, whatever the client can use of it.
        names: of the providers.
        algorithms: the rows behind the mechanisms; some mechanisms stand for several, by their parameter.
    """

    number: int
    name: str
    providers: tuple[m.ProviderInfo, ...]
    label: str
    manufacturer: str
    model: str
    serial: str
    firmware: str
    hardware: bool
    present: bool
    mechanisms: Mapping[int, MechanismInfo]
    algorithms: frozenset[str]
    names: frozenset[str]

    def holds(self, provider: str) -> bool:
        """Whether the keys of a provider are on it; what is of no provider ("") is on every token."""
        return not provider or provider in self.names

    def makers(self, key_type: str, *, imports: bool = False) -> tuple[str, ...]:
        """The providers that can be asked to make, or take in, a key of a type."""
        return tuple(
            one.name for one in self.providers if one.state == "available" and (imports or key_type in one.key_types)
        )

    def offered(self, providers: Collection[str]) -> frozenset[str]:
        """The algorithms that some of its providers have between them."""
        return frozenset(claim.algorithm for one in self.providers if one.name in providers for claim in one.claims)


def tokens_of(providers: Sequence[m.ProviderInfo], view: TokenView) -> tuple[Token, ...]:
    """The tokens that an application sees."""
    if view is TokenView.MERGED:
        return (_token(0, ALL_PROVIDERS, providers, MERGED_LABEL),)
    return tuple(_token(number, one.name, (one,), one.name) for number, one in enumerate(providers))


def _token(number: int, name: str, providers: Sequence[m.ProviderInfo], label: str) -> Token:
    usable = [one for one in providers if one.state == "available"]
    identity = usable[0].token if len(providers) == 1 and usable else None
    return Token(
        number=number,
        name=name,
        providers=tuple(providers),
        label=label,
        manufacturer=(identity.manufacturer if identity else "") or _MANUFACTURER,
        model=(identity.model if identity else "") or (providers[0].scheme if len(providers) == 1 else "merged"),
        serial=(identity.serial if identity else "") or str(number),
        firmware=identity.firmware if identity else "",
        hardware=all(is_device(one.scheme) for one in providers),
        present=bool(usable),
        mechanisms=_mechanisms(usable),
        names=frozenset(one.name for one in providers),
        algorithms=frozenset(claim.algorithm for one in usable for claim in one.claims),
    )


def _mechanisms(providers: Iterable[m.ProviderInfo]) -> Mapping[int, MechanismInfo]:
    found: dict[int, MechanismInfo] = {}
    for provider in providers:
        for claim in provider.claims:
            row = ALGORITHMS.get(claim.algorithm)
            if row is not None and row.scheme in _SERVED and row.ckm is not None:
                for type_ in (row.ckm, *BESIDE.get(row.scheme, ())):
                    _offer(found, type_, _info_of(row, claim))
        for name in provider.key_types:
            kind = KEY_TYPES.get(name)
            if kind is not None and kind.family in _GENERATED and kind.key_gen is not None:
                flag = F.GENERATE if kind.symmetric else F.GENERATE_KEY_PAIR
                curve = F.EC if kind.family is Family.EC else F(0)
                size = kind.bytes if kind.symmetric else kind.bits
                _offer(found, kind.key_gen, MechanismInfo(size, size, flag | curve))
    for type_ in HASH_OF:
        found[type_] = MechanismInfo(0, 0, F.DIGEST)
    # Plain numbers, which are quicker to compare than flags.
    return {type_: info._replace(flags=int(info.flags)) for type_, info in sorted(found.items()) if info.flags}


def _info_of(row: Algorithm, claim: Claim) -> MechanismInfo:
    flags = F(0)
    for name in claim.operations:
        flags |= _FLAG.get(KeyOperation(name), F(0))
    if row.scheme in _DECRYPT_ONLY:
        flags &= F.DECRYPT
    types = [KEY_TYPES[name] for name in row.key_types]
    if types[0].family is Family.EC:
        flags |= F.EC
    sizes = [kind.bytes if kind.symmetric else kind.bits for kind in types]
    return MechanismInfo(min(sizes), max(sizes), flags)


def _offer(found: dict[int, MechanismInfo], type_: int, info: MechanismInfo) -> None:
    before = found.get(type_)
    if before is not None:
        info = MechanismInfo(min(before.least, info.least), max(before.most, info.most), before.flags | info.flags)
    found[type_] = info
