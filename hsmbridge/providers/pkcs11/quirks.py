"""What tokens do oddly, as a table; the code reads it and never asks for a manufacturer by name.

Found by trying (`probe`) wherever that is possible; here stands what cannot be tried out, or what an operator
should be told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pkcs11 import Token

from hsmbridge.core.algorithms import Scheme
from hsmbridge.core.key_types import Family
from hsmbridge.providers.pkcs11.errors import Refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """One kind of token.

    Attributes:
        manufacturer, model: how CK_TOKEN_INFO begins for such a token.
        notes: for the operator, one sentence each.
        small_rsa: bits of the RSA key of the self-check, for tokens where making a larger one takes long.
        objects_one_by_one: making and destroying objects fails now and then beside another that is made, destroyed
            or looked for.
        renumbered: CKM_* of the standard → the CKM_* under which the token has it.
        pads_before_kwp: what it wraps by AES-KWP comes back with zeros up to whole 8 bytes.
        short_lengths: it tells too short a length for what C_Encrypt and C_WrapKey will answer.
        session_copyable_only: it takes CKA_COPYABLE for session objects, and fails with it for token objects.
        longest: bytes of the longest message that it signs, by scheme.
        serial_of_all: every token of the kind has the same serial, so the label says which one it is.
        size_untold: families of secret keys of which it does not tell CKA_VALUE_LEN once they were unwrapped.
        device_error_for_data: it answers CKR_DEVICE_ERROR to data that are wrong, and is not broken then.
    """

    manufacturer: str = ""
    model: str = ""
    notes: tuple[str, ...] = ()
    small_rsa: int = 2048
    objects_one_by_one: bool = False
    renumbered: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    pads_before_kwp: bool = False
    short_lengths: bool = False
    session_copyable_only: bool = False
    longest: Mapping[Scheme, int] = field(default_factory=lambda: MappingProxyType({}))
    serial_of_all: bool = False
    size_untold: frozenset[Family] = frozenset()
    device_error_for_data: bool = False

    @property
    def refusals(self) -> Refusals:
        return Refusals(self.device_error_for_data)


_ORDINARY = Quirks()
_KNOWN: tuple[Quirks, ...] = (
    Quirks(
        manufacturer="SoftHSM project",
        model="SoftHSM",
        small_rsa=1536,
        # Of 2,742 token key pairs made by eight threads at once 8 failed with CKR_GENERAL_ERROR or
        # CKR_TEMPLATE_INCONSISTENT; beside searches 27 of 291. A search lists the token's directory and meets there
        # the file of an object that is being made. Using objects that were found does not.
        objects_one_by_one=True,
        renumbered=MappingProxyType({0x210B: 0x210A}),  # CKM_AES_KEY_WRAP_KWP: its CKM_AES_KEY_WRAP_PAD is RFC 5649
        pads_before_kwp=True,
        size_untold=frozenset({Family.AES, Family.HMAC, Family.SECRET}),
        notes=(
            "SoftHSM keeps its objects in files that whoever has the PIN and read access can copy.",
            "A private key that SoftHSM wraps by AES-KWP may have zeros after its end; some programs refuse it then.",
            "SoftHSM searches its objects one by one: the more keys, the longer the first use of each takes.",
        ),
    ),
    Quirks(
        manufacturer="Mozilla Foundation",
        model="NSS 3",
        short_lengths=True,
        session_copyable_only=True,
        size_untold=frozenset({Family.CHACHA20}),
        device_error_for_data=True,  # to a MAC of another length
        serial_of_all=True,
        notes=(
            "NSS softokn keeps its objects in a file that whoever has the password and read access can copy.",
            "All NSS databases have one serial; hsmbridge tells them apart by label: give each a dbTokenDescription.",
        ),
    ),
    Quirks(
        manufacturer="Kryoptic Project",
        longest=MappingProxyType({Scheme.EDDSA: 1 << 20, Scheme.SLH_DSA: 1 << 20}),
        device_error_for_data=True,
        notes=(
            "Kryoptic keeps its objects in a file that whoever has the PIN and read access can copy.",
            "Kryoptic is for one process at a time: two that write its database at once make calls fail.",
        ),
    ),
)


def quirks_of(token: Token) -> Quirks:
    """The row of a token; an ordinary one where the table has none."""
    for row in _KNOWN:
        if token.manufacturer_id.startswith(row.manufacturer) and token.model.startswith(row.model):
            return row
    return _ORDINARY
