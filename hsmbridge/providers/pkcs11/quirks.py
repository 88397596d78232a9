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
        objects_one_by_one: making and destroying objects fails now and then beside another that is made, destroyed
            or looked for.
    """

    manufacturer: str = ""
    model: str = ""
    notes: tuple[str, ...] = ()
    small_rsa: int = 2048
    objects_one_by_one: bool = False


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
