"""What tokens do oddly, as a table; the code reads it and never asks for a manufacturer by name.

Found by trying (`probe`) wherever that is possible; here stands what cannot be tried out, or what an operator
should be told.
"""

from dataclasses import dataclass

from pkcs11 import Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """One kind of token.

    Attributes:
        manufacturer, model: how CK_TOKEN_INFO begins for such a token.
        notes: for the operator, one sentence each.
        small_rsa: bits of the RSA key of the self-check, for tokens where making a larger one takes long.
        one_maker: making or destroying keys in several sessions at once fails now and then.
    """

    manufacturer: str = ""
    model: str = ""
    notes: tuple[str, ...] = ()
    small_rsa: int = 2048
    one_maker: bool = False


_ORDINARY = Quirks()
_KNOWN: tuple[Quirks, ...] = (
    Quirks(
        manufacturer="SoftHSM project",
        model="SoftHSM",
        small_rsa=1536,
        # Of 2,742 token key pairs made by eight threads at once 8 failed with CKR_GENERAL_ERROR or
        # CKR_TEMPLATE_INCONSISTENT, of 291 beside session key pairs 27; of 3,532 made one after the other none.
        one_maker=True,
        notes=(
            "SoftHSM keeps its objects in files that whoever has the PIN and read access can copy.",
            "SoftHSM searches its objects one by one: the more keys, the longer the first use of each takes.",
        ),
    ),
)


def quirks_of(token: Token) -> Quirks:
    """The row of a token; an ordinary one where the table has none."""
    for row in _KNOWN:
        if token.manufacturer_id.startswith(row.manufacturer) and token.model.startswith(row.model):
            return row
    return _ORDINARY
