"""The six kinds of context: which algorithms and operations belong to each, and what may be streamed."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hsmbridge.core.algorithms import KeyOperation, Kind, algorithm
from hsmbridge.core.errors import RequestError, Status
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.key_types import Maturity
from hsmbridge.core.messages import ContextKind
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.service.open_contexts import Context

_TAKES: Final[Mapping[ContextKind, Kind]] = MappingProxyType(
    {
        ContextKind.CIPHER: Kind.CIPHER,
        ContextKind.AEAD: Kind.AEAD,
        ContextKind.SIGN: Kind.SIGNATURE,
        ContextKind.VERIFY: Kind.SIGNATURE,
        ContextKind.MAC: Kind.MAC,
        ContextKind.DIGEST: Kind.DIGEST,
    }
)
_KINDS: Final[Mapping[KeyOperation, frozenset[ContextKind]]] = MappingProxyType(
    {
        KeyOperation.ENCRYPT: frozenset({ContextKind.CIPHER, ContextKind.AEAD}),
        KeyOperation.DECRYPT: frozenset({ContextKind.CIPHER, ContextKind.AEAD}),
        KeyOperation.SIGN: frozenset({ContextKind.SIGN, ContextKind.MAC}),
        KeyOperation.VERIFY: frozenset({ContextKind.VERIFY, ContextKind.MAC}),
        KeyOperation.DIGEST: frozenset({ContextKind.DIGEST}),
    }
)


def new_context(
    kind: ContextKind,
    operation: KeyOperation,
    name: str,
    resource: CryptoResourceId | None,
    parameters: SignatureParameters = DEFAULT_SIGNATURE,
) -> Context:
    """A new context. Raises RequestError where kind, operation and algorithm do not belong together."""
    row = algorithm(name)
    if kind not in _KINDS[operation]:
        raise RequestError(Status.INVALID_ARGUMENT, f"A context of kind {kind} does not {operation}.")
    if row.kind is not _TAKES[kind]:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{row.name} is for {row.kind}; a context of kind {kind} does not take it."
        )
    if operation is KeyOperation.SIGN and row.maturity is Maturity.LEGACY:
        raise RequestError(Status.ALGORITHM_NOT_ALLOWED, f"{row.name} is kept for old data only; choose another.")
    if kind is ContextKind.MAC and parameters != DEFAULT_SIGNATURE:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} takes no parameters.")
    return Context(kind, operation, row, resource, parameters)


def may_stream(context: Context) -> bool:
    """Whether the data may go to the provider as it comes."""
    if context.kind is ContextKind.AEAD and context.operation is KeyOperation.DECRYPT:
        return False  # the plaintext would have to be held back anyway, until the tag was verified
    if context.parameters.digest_signing or context.parameters.external_mu:
        return False  # what comes is not the message but what was computed of it, and is short
    return len(context.keys) <= 1


def check_proof(context: Context, proof: bytes) -> None:
    """Raises RequestError (INVALID_ARGUMENT) for a proof where nothing is verified."""
    verifies = context.operation is KeyOperation.VERIFY or (
        context.operation is KeyOperation.DECRYPT and context.kind is ContextKind.AEAD
    )
    if proof and not verifies:
        raise RequestError(Status.INVALID_ARGUMENT, "This context verifies nothing; it takes no signature, MAC or tag.")
