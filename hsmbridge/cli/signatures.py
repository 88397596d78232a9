"""`sign`, `verify` and `mac`."""

import click

from hsmbridge.cli.defaults import default_algorithm
from hsmbridge.cli.files import STANDARD, decode_hex, encode_base64, read_small, write_output
from hsmbridge.cli.long_data import LongInput, opened_input
from hsmbridge.cli.options import (
    Client,
    algorithm_option,
    client_options,
    in_option,
    out_option,
    slot_option,
    version_option,
)
from hsmbridge.cli.output import print_json, print_line
from hsmbridge.client import CryptoStack, SignatureParameters
from hsmbridge.core.algorithms import Algorithm, Kind, algorithm
from hsmbridge.core.errors import RequestError, Status


@click.command()
@slot_option
@algorithm_option
@in_option
@out_option
@click.option("--context-hex", default="", metavar="HEX", help="Context of ML-DSA and SLH-DSA.")
@click.option("--salt-length", type=click.IntRange(0, 512), metavar="N", help="Of RSASSA-PSS [default: of the hash].")
@click.option("--digest", "digest_signing", is_flag=True, help="The input is the digest itself.")
@click.option("--external-mu", is_flag=True, help="The input is the message representative mu of ML-DSA.")
@client_options
def sign(
    client: Client,
    slot: str,
    algorithm: str | None,
    input_: str,
    output: str,
    context_hex: str,
    salt_length: int | None,
    digest_signing: bool,
    external_mu: bool,
) -> None:
    """Sign a file. ECDSA signatures are DER."""
    parameters = _parameters(context_hex, salt_length, digest_signing, external_mu)
    with client.stack() as stack:
        row = _chosen(stack, slot, algorithm, Kind.SIGNATURE)
        with opened_input(input_, stack.max_frame) as data:
            if isinstance(data, LongInput):
                with stack.sign_context(slot, row.name, parameters=parameters) as context:
                    context.update_from(data)
                    signature = context.finalize()
            else:
                signature = stack.sign(slot, row.name, data, parameters=parameters)
    _give(client, slot, row, signature.version, "signature", signature, output)


@click.command()
@slot_option
@algorithm_option
@in_option
@out_option
@client_options
def mac(client: Client, slot: str, algorithm: str | None, input_: str, output: str) -> None:
    """Compute the message authentication code of a file; `verify` checks one."""
    with client.stack() as stack:
        row = _chosen(stack, slot, algorithm, Kind.MAC)
        with opened_input(input_, stack.max_frame) as data:
            if isinstance(data, LongInput):
                with stack.mac_context(slot, row.name) as context:
                    context.update_from(data)
                    made = context.finalize()
            else:
                made = stack.mac(slot, row.name, data)
    _give(client, slot, row, made.version, "mac", made, output)


@click.command()
@slot_option
@algorithm_option
@click.option("--signature", "signature_file", required=True, metavar="FILE", help="The signature or MAC.")
@in_option
@version_option
@click.option("--context-hex", default="", metavar="HEX", help="Context of ML-DSA and SLH-DSA.")
@click.option("--salt-length", type=click.IntRange(0, 512), metavar="N", help="Of RSASSA-PSS [default: of the hash].")
@click.option("--digest", "digest_signing", is_flag=True, help="The input is the digest itself.")
@click.option("--external-mu", is_flag=True, help="The input is the message representative mu of ML-DSA.")
@client_options
def verify(
    client: Client,
    slot: str,
    algorithm: str | None,
    signature_file: str,
    input_: str,
    version: int,
    context_hex: str,
    salt_length: int | None,
    digest_signing: bool,
    external_mu: bool,
) -> None:
    """Verify the signature or MAC of a file. One that is not valid ends with exit code 1."""
    if signature_file == input_ == STANDARD:
        raise RequestError(Status.INVALID_ARGUMENT, "Input and signature cannot both come from stdin.")
    parameters = _parameters(context_hex, salt_length, digest_signing, external_mu)
    with client.stack() as stack:
        row = _chosen(stack, slot, algorithm, Kind.SIGNATURE, Kind.MAC)
        given = read_small(signature_file)
        with opened_input(input_, stack.max_frame) as data:
            if isinstance(data, LongInput):
                found = _verify_long(stack, slot, row, data, given, parameters, version)
            elif row.kind is Kind.MAC:
                found = stack.verify_mac(slot, row.name, data, given, version=version)
            else:
                found = stack.verify(slot, row.name, data, given, parameters=parameters, version=version)
    if client.as_json:
        print_json({"slot": slot, "algorithm": row.name, "version": found, "valid": True})
    else:
        what = "MAC" if row.kind is Kind.MAC else "signature"
        print_line(f"the {what} is valid ({row.name}, key version {found})")


def _verify_long(
    stack: CryptoStack,
    slot: str,
    row: Algorithm,
    data: LongInput,
    given: bytes,
    parameters: SignatureParameters,
    version: int,
) -> int:
    if row.kind is Kind.MAC:
        with stack.mac_context(slot, row.name, verify=True, version=version) as mac_context:
            mac_context.update_from(data)
            return mac_context.verify(given)
    with stack.verify_context(slot, row.name, parameters=parameters, version=version) as context:
        context.update_from(data)
        return context.finalize(given)


def _chosen(stack: CryptoStack, slot: str, name: str | None, *kinds: Kind) -> Algorithm:
    if name is None:
        return default_algorithm(stack.show_slot(slot), kinds)
    row = algorithm(name)
    if row.kind not in kinds:
        wanted = " or ".join(kind.value for kind in kinds)
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} is for {row.kind.value}, not {wanted}.")
    return row


def _give(client: Client, slot: str, row: Algorithm, version: int, what: str, data: bytes, output: str) -> None:
    if output != STANDARD or not client.as_json:
        write_output(output, data)
    if client.as_json:
        where = {"out": output} if output != STANDARD else {what: encode_base64(data)}
        print_json({"slot": slot, "algorithm": row.name, "version": version, **where})


def _parameters(
    context_hex: str, salt_length: int | None, digest_signing: bool, external_mu: bool
) -> SignatureParameters:
    return SignatureParameters(
        context=decode_hex("--context-hex", context_hex),
        salt_length=salt_length,
        digest_signing=digest_signing,
        external_mu=external_mu,
    )
