"""`slot import`, `export`, `adopt` and `attest`: keys that come from elsewhere, and what goes there of ours.

Public keys come and go in any format; a private key comes in from a file, and never goes out in the clear.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsmbridge.cli.files import STANDARD, decode_hex, encode_base64, read_passphrase, read_small, write_output
from hsmbridge.cli.options import Client, client_options
from hsmbridge.cli.output import Json, print_json, print_line
from hsmbridge.cli.slot_output import listed, names_of, only_provider, print_slot, public_key_of, slot_document
from hsmbridge.cli.wrapping import permissions_for, tell_made
from hsmbridge.client import (
    CryptoStack,
    ImportKeyParams,
    KeyAttestation,
    KeyOperationPermission,
    NoncePolicy,
    SlotInfo,
)
from hsmbridge.client.key_formats.names import Format, PublicKeyFormat
from hsmbridge.client.key_formats.pem import public_key_pem
from hsmbridge.core.calls import Quote
from hsmbridge.core.errors import HsmBridgeError, RequestError, Status
from hsmbridge.core.key_types import key_type as key_type_row
from hsmbridge.core.lifecycle import KeyVersionState
from hsmbridge.core.permissions import permissions_from_names

if TYPE_CHECKING:
    from hsmbridge.client.key_formats.given import GivenKey

P = KeyOperationPermission

JWKS = "jwks"
_PUBLIC_USES = P.VERIFY | P.ENCRYPT | P.ENCAPSULATE
_PUBLIC_MAY = _PUBLIC_USES | P.WRAP | P.GENERATE
_PUBLISHED = (KeyVersionState.ACTIVE, KeyVersionState.ROTATED)
_BINARY = frozenset({PublicKeyFormat.DER, PublicKeyFormat.COSE})

_permissions_option = click.option("--permissions", default="", metavar="LIST", help="Such as sign,verify.")
_algorithms_option = click.option(
    "--algorithms", default="", metavar="LIST", help="The only algorithms allowed [default: all that fit]."
)
_nonce_policy_option = click.option(
    "--nonce-policy",
    type=click.Choice([policy.value for policy in NoncePolicy]),
    default=NoncePolicy.SERVICE.value,
    show_default=True,
    help="Who chooses nonces.",
)
_sign_and_decrypt_option = click.option("--sign-and-decrypt", is_flag=True, help="Let one RSA key do both.")
_derive_option = click.option(
    "--derive-to-software", is_flag=True, help="Let secrets agreed with this key go into the daemon."
)
_wrapping_option = click.option("--imported-wrapping-key", is_flag=True, help="Let the key wrap and unwrap others.")


@click.command(name="import")
@click.argument("name")
@click.option("--in", "input_", default=STANDARD, metavar="FILE", help="The key [default: stdin].")
@click.option(
    "--format",
    "format_",
    type=click.Choice([one.value for one in Format]),
    default=Format.AUTO.value,
    show_default=True,
    help="What the file is; a secret key in raw form must be said to be one.",
)
@click.option("--passphrase-file", metavar="FILE", help="Of an encrypted private key; mode 0600.")
@click.option("--passphrase-fd", type=click.IntRange(min=0), metavar="N", help="The same, from a descriptor.")
@click.option("--create", "create_", is_flag=True, help="Make the slot as well; else it is there already.")
@click.option("--key-type", metavar="TYPE", help="With --create [default: that of the key; a secret has none].")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="With --create.")
@_permissions_option
@_algorithms_option
@_nonce_policy_option
@_sign_and_decrypt_option
@_derive_option
@_wrapping_option
@client_options
def import_(
    client: Client,
    name: str,
    input_: str,
    format_: str,
    passphrase_file: str | None,
    passphrase_fd: int | None,
    create_: bool,
    key_type: str | None,
    providers: tuple[str, ...],
    permissions: str,
    algorithms: str,
    nonce_policy: str,
    sign_and_decrypt: bool,
    derive_to_software: bool,
    imported_wrapping_key: bool,
) -> None:
    """Take a key into the slot NAME: a public one, or a private or secret one that stood in a file.

    A private key that was in a file may have been copied from there; one that the service generates was never outside.
    """
    from hsmbridge.client.key_formats.given import read_key

    given = read_key(read_small(input_), Format(format_), read_passphrase(passphrase_file, passphrase_fd))
    asked = permissions_from_names(listed(permissions))
    if not create_ and (providers or key_type):
        raise RequestError(Status.INVALID_ARGUMENT, "--provider and --key-type describe a new slot: say --create.")
    with client.stack() as stack:
        if create_:
            row_name = _type_of_new_slot(given, key_type)
            slot = stack.create_slot(
                name,
                row_name,
                asked or _usual_permissions(given, row_name),
                providers=listed(",".join(providers)) or only_provider(stack),
                algorithms=listed(algorithms),
                nonce_policy=NoncePolicy(nonce_policy),
                sign_and_decrypt=sign_and_decrypt,
                derive_to_software=derive_to_software,
                imported_wrapping_key=imported_wrapping_key,
                empty=True,
            )
        else:
            slot = stack.show_slot(name)
        try:
            version, allowed = _import_into(stack, slot, given, asked)
        except HsmBridgeError:
            if create_:
                # Nothing was ever in it; who asks again finds the name free.
                with suppress(HsmBridgeError):
                    stack.destroy(slot.name)
            raise
    tell_made(client, name, version, "imported", slot, allowed)


@click.command()
@click.argument("name")
@click.option(
    "--public",
    type=click.Choice([*(one.value for one in PublicKeyFormat), JWKS]),
    help="The public key; jwks has those of all versions that still serve.",
)
@click.option(
    "--format", "format_", metavar="NAME", help="The private key, as only its token opens it: tss2. Needs export."
)
@click.option("--recipient", metavar="FILE", help="Whom a private key is for, where the format needs that.")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Of --public [default: the active one].")
@click.option("--out", "output", default=STANDARD, metavar="FILE", help="Output [default: stdout].")
@client_options
def export(
    client: Client,
    name: str,
    public: str | None,
    format_: str | None,
    recipient: str | None,
    version: int | None,
    output: str,
) -> None:
    """Write the public key of a slot, or its private key in a form that only its own token opens."""
    if (public is None) is (format_ is None):
        raise RequestError(Status.INVALID_ARGUMENT, "Say what to write: --public FORMAT or --format FORMAT.")
    with client.stack() as stack:
        if format_ is not None:
            _export_private(client, stack, name, format_, b"" if recipient is None else read_small(recipient), output)
            return
        slot = stack.show_slot(name)
    data = _public_key(slot, public or "", version)
    binary = public in _BINARY
    if client.as_json:
        document: dict[str, Json] = {"name": slot.name, "format": public}
        if output == STANDARD:
            document["public_key"] = encode_base64(data) if binary else data.decode()
        else:
            write_output(output, data)
            document["out"] = output
        print_json(document)
    elif output == STANDARD and not binary:
        print(data.decode(), end="")
    else:
        write_output(output, data)


@click.command()
@click.argument("name")
@click.option("--provider", required=True, metavar="NAME", help="The one whose token has the key.")
@click.option("--uri", default="", metavar="URI", help="Where it is: pkcs11:... (RFC 7512), or a TPM handle 0x81....")
@click.option("--in", "input_", metavar="FILE", help="Instead, the key as only its TPM opens it: a TSS2 PRIVATE KEY.")
@_permissions_option
@_algorithms_option
@_nonce_policy_option
@_sign_and_decrypt_option
@_derive_option
@_wrapping_option
@client_options
def adopt(
    client: Client,
    name: str,
    provider: str,
    uri: str,
    input_: str | None,
    permissions: str,
    algorithms: str,
    nonce_policy: str,
    sign_and_decrypt: bool,
    derive_to_software: bool,
    imported_wrapping_key: bool,
) -> None:
    """Make the slot NAME of a key that a token has already; from then on it is the slot's, and ends with it."""
    if bool(uri) is (input_ is not None):
        raise RequestError(Status.INVALID_ARGUMENT, "Say which key: --uri or --in, one of the two.")
    with client.stack() as stack:
        adopted = stack.adopt_slot(
            name,
            provider=provider,
            uri=uri,
            material=b"" if input_ is None else read_small(input_),
            permissions=permissions_from_names(listed(permissions)),
            algorithms=listed(algorithms),
            nonce_policy=NoncePolicy(nonce_policy),
            sign_and_decrypt=sign_and_decrypt,
            derive_to_software=derive_to_software,
            imported_wrapping_key=imported_wrapping_key,
        )
    beyond = names_of(adopted.token_permissions & int(~P.NONE) & ~adopted.slot.permissions)
    if client.as_json:
        print_json({**slot_document(adopted.slot), "token_label": adopted.label, "token_allows_beyond": list(beyond)})
        return
    print_slot(client, adopted.slot)
    if beyond:
        print_line(f"past the daemon, the token still lets this key {', '.join(beyond)}")


@click.command()
@click.argument("name")
@click.option("--nonce", required=True, metavar="HEX", help="8 to 64 random bytes of who will check the statement.")
@click.option("--version", type=click.IntRange(min=0), default=0, metavar="N", help="[default: the active one]")
@click.option("--pcrs", default="", metavar="N,...", help="PCRs of the SHA-256 bank that the TPM quotes besides.")
@click.option("--out", "output", metavar="FOLDER", help="Where the files go; made if it is missing.")
@client_options
def attest(client: Client, name: str, nonce: str, version: int, pcrs: str, output: str | None) -> None:
    """Have the key's token state what it knows of the key: for who must know that it lives in hardware."""
    if output is None and not client.as_json:
        raise RequestError(Status.INVALID_ARGUMENT, "Say where the statement goes: --out FOLDER, or --json.")
    asked, numbers = decode_hex("--nonce", nonce), _pcr_numbers(pcrs)
    with client.stack() as stack:
        made = stack.attest_key(name, asked, version=version, pcrs=numbers)
    if output is not None:
        _write_attestation(Path(output), made)
    if client.as_json:
        document: dict[str, Json] = {
            "name": name,
            "version": made.version,
            "format": made.attestation.format,
            "statement": encode_base64(made.attestation.statement),
            "signature": encode_base64(made.attestation.signature),
            "attestation_key": public_key_pem(made.attestation.attestation_key),
            "public_key": public_key_pem(made.public_key) if made.public_key else None,
            "subject": encode_base64(made.attestation.subject),
            "certificates": [encode_base64(one) for one in made.attestation.certificates],
            "quote": None if made.attestation.quote is None else _quote_document(made.attestation.quote),
        }
        print_json(document)
    else:
        print_line(f"{made.attestation.format} of version {made.version} of slot {name} is in {output}")


def _pcr_numbers(text: str) -> tuple[int, ...]:
    items = listed(text)
    if not all(item.isascii() and item.isdecimal() for item in items):
        raise RequestError(Status.INVALID_ARGUMENT, "--pcrs takes numbers with commas between them, such as 0,2,7.")
    return tuple(map(int, items))


def _quote_document(quote: Quote) -> Json:
    return {
        "statement": encode_base64(quote.statement),
        "signature": encode_base64(quote.signature),
        "pcrs": {str(number): value.hex() for number, value in quote.pcrs},
    }


def _type_of_new_slot(given: "GivenKey", named: str | None) -> str:
    if named is not None and given.key_type and named != given.key_type:
        raise RequestError(Status.KEY_TYPE_MISMATCH, f"The key is of type {given.key_type}, not {named}.")
    found = named or given.key_type
    if not found:
        raise RequestError(Status.INVALID_ARGUMENT, "A secret key does not say what it is for: name its --key-type.")
    return key_type_row(found).name


def _usual_permissions(given: "GivenKey", row_name: str) -> P:
    if given.form != "spki":
        raise RequestError(Status.INVALID_ARGUMENT, "Say with --permissions what the key is to be used for.")
    return _PUBLIC_USES & key_type_row(row_name).permissions


def _import_into(stack: CryptoStack, slot: SlotInfo, given: "GivenKey", asked: P) -> tuple[int, P]:
    allowed = permissions_for(slot)
    if given.form == "spki":
        allowed &= _PUBLIC_MAY
    params = ImportKeyParams(
        key_type=given.key_type or slot.key_type,
        # What was asked for goes to the daemon as it is, to be refused in its words.
        permissions=int(asked or allowed),
        format=given.form,
    )
    return stack.import_key(params, given.material, slot=slot.name), asked or allowed


def _public_key(slot: SlotInfo, format_: str, version: int | None) -> bytes:
    if format_ == JWKS:
        from hsmbridge.client.key_formats.jwk import jwk_set

        return jwk_set(one.public_key for one in reversed(slot.versions) if one.state in _PUBLISHED and one.public_key)
    from hsmbridge.client.key_formats.public import write_public_key

    return write_public_key(public_key_of(slot, version), PublicKeyFormat(format_), comment=slot.name)


def _export_private(client: Client, stack: CryptoStack, name: str, format_: str, recipient: bytes, output: str) -> None:
    data = stack.export_key(name, format_, recipient=recipient)
    if client.as_json:
        document: dict[str, Json] = {"name": name, "format": format_}
        if output == STANDARD:
            document["material"] = encode_base64(data)
        else:
            write_output(output, data, secret=True)
            document["out"] = output
        print_json(document)
        return
    write_output(output, data, secret=True)
    if output != STANDARD:
        print_line(
            f"{output} holds the key as only its own token opens it: who has both can use the key past the daemon,"
            " whatever the slot says later"
        )


def _write_attestation(folder: Path, made: KeyAttestation) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise RequestError(Status.INVALID_ARGUMENT, f"{folder} cannot be made: {problem.strerror}.") from None
    files = {
        "statement": made.attestation.statement,
        "signature": made.attestation.signature,
        "attestation-key.pem": public_key_pem(made.attestation.attestation_key).encode(),
        "format": made.attestation.format.encode() + b"\n",
    }
    if made.public_key:
        files["public-key.pem"] = public_key_pem(made.public_key).encode()
    if made.attestation.subject:
        files["subject"] = made.attestation.subject
    if (quote := made.attestation.quote) is not None:
        files |= {"quote": quote.statement, "quote-signature": quote.signature}
        files["pcrs"] = "".join(f"{number} {value.hex()}\n" for number, value in quote.pcrs).encode()
    files |= {f"certificate-{number}.der": one for number, one in enumerate(made.attestation.certificates, 1)}
    for file_name, content in files.items():
        write_output(str(folder / file_name), content)
