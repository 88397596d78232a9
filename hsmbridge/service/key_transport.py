"""Keys that leave or come in wrapped: wrap, unwrap, persist; export and attestation by the key's own token.

A private or secret key is never in the clear here. Wrapping happens inside one provider, or not at all; a key goes
from one provider to another only under a key that exists for that one moment, and only where it may leave.
"""

import secrets
from collections.abc import Callable
from typing import TypeVar

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, algorithm
from hsmbridge.core.errors import DecryptionFailed, KeyUseError, ProviderError, RequestError, Status, error
from hsmbridge.core.identifiers import new_key_id
from hsmbridge.core.key_types import Family, KeyType, key_type, may_have_used_nonces
from hsmbridge.core.params import UnwrapKeyParams
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.steps import Steps, for_attestation, for_bytes, for_handle, for_key
from hsmbridge.keys.access import AcquiredKey
from hsmbridge.service.catalogue import ProviderCatalogue
from hsmbridge.service.key_making import KeyMaking, Plan, check_material
from hsmbridge.service.key_use import KeyUse
from hsmbridge.service.session import Session
from hsmbridge.storage.records import Origin

T = TypeVar("T")

SHORTEST_NONCE, LONGEST_NONCE = 8, 64
"""Bytes of an attestation's nonce: enough that no earlier answer fits, and what every TPM takes."""

_TRANSFER = algorithm("AES-256-KWP")
_TRANSFER_KEY = key_type("AES-256")
_CIPHERS = frozenset({Family.AES, Family.CHACHA20})

Keys = tuple[AcquiredKey, ...]


class KeyTransport:
    """One method an operation; the keys come acquired."""

    def __init__(self, catalogue: ProviderCatalogue, handles: Handles, use: KeyUse, making: KeyMaking) -> None:
        """Args: what providers claim, what is loaded, and the parts that choose nonces and make keys."""
        self._catalogue = catalogue
        self._handles = handles
        self._use = use
        self._making = making

    def wrap(self, request: m.WrapRequest, keys: Keys) -> Steps[m.WrapReply]:
        """`keys` are the wrapping key and the one to be wrapped."""
        key, wrapped = keys
        row = algorithm(request.params.algorithm)
        if key.key_id == wrapped.key_id:
            raise RequestError(Status.INVALID_ARGUMENT, "A key does not wrap itself; name another one.")
        if key.provider != wrapped.provider:
            raise error(
                Status.NOT_TRANSFERABLE,
                f"The key to be wrapped lives in {wrapped.provider}, and the wrapping key in {key.provider}; a key is"
                " wrapped inside one provider only.",
            )
        _check_strength(key.key_type, wrapped.key_type)
        self._catalogue.require(key.provider, row, KeyOperation.WRAP)
        _check_aad(row, request.params.aad)
        iv = yield from self._use.nonce(row, key, request.params.iv)
        material = yield from self._with_both(
            key,
            wrapped,
            lambda handle, other: for_bytes(
                key.provider, calls.WrapCall(handle, row.name, other, iv, request.params.aad)
            ),
        )
        return m.WrapReply(material, key.version, iv)

    def unwrap(self, session: Session, request: m.UnwrapRequest, keys: Keys) -> Steps[m.KeyReply]:
        """`keys` are the versions that may have wrapped it, in the order to try them."""
        params = request.params
        algorithm_row, row = algorithm(params.algorithm), key_type(params.key_type)
        provider = keys[0].provider
        _check_form(params, row)
        check_material(request.material)
        _check_aad(algorithm_row, params.aad)
        if len(params.iv) != algorithm_row.nonce_size:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"{algorithm_row.name} takes an iv of {algorithm_row.nonce_size} bytes, not {len(params.iv)}.",
            )
        for name in {key.provider for key in keys}:
            self._catalogue.require(name, algorithm_row, KeyOperation.UNWRAP)

        def plan(preferences: tuple[str, ...], *, fallback: bool) -> Plan:  # noqa: ARG001 - goes where its key is
            there = tuple(key for key in keys if key.provider in preferences)
            if not there:
                raise error(
                    Status.NOT_TRANSFERABLE,
                    f"The unwrapping key lives in {provider}, and the slot keeps its keys in"
                    f" {', '.join(preferences)}; a key is unwrapped inside one provider only.",
                )
            choice = self._catalogue.choose((there[0].provider,), row.name, fallback=True, generate=False)
            candidates = tuple(key for key in there if key.provider == choice.provider)
            return Plan(choice, lambda target: self._unwrap(candidates, request.material, params, target))

        return (yield from self._making.make(session, request, Origin.UNWRAPPED, provider, plan))

    def persist(self, session: Session, request: m.PersistRequest, key: AcquiredKey) -> Steps[m.KeyReply]:
        """Copy an ephemeral key into a slot; it gets at most its own permissions, and keeps its origin."""
        if key.slot is not None:
            raise RequestError(
                Status.INVALID_ARGUMENT, f"{key.name} is a slot already; only an ephemeral key is persisted."
            )
        if not request.slot:
            raise RequestError(Status.INVALID_ARGUMENT, "Name the slot that the key is to be copied into.")
        used = may_have_used_nonces(key.key_type, key.permissions)
        if used and key.chosen is not None:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                "No slot knows which nonces you have chosen for this key; a key that encrypts or wraps with such is not"
                " kept. Make it in the slot.",
            )
        origin = session.resources.ephemeral.get(request.key).origin

        def plan(preferences: tuple[str, ...], *, fallback: bool) -> Plan:
            if key.provider not in preferences:
                return self._transfer(key, preferences, fallback=fallback)
            choice = self._catalogue.choose((key.provider,), key.key_type.name, fallback=True, generate=False)
            return Plan(choice, lambda target: self._copy(key, target))

        return (
            yield from self._making.into_named_slot(
                session,
                key.key_type,
                key.permissions,
                origin,
                request.slot,
                plan,
                nonce_policy=NoncePolicy.SERVICE if used else None,
            )
        )

    def export(self, request: m.SlotExportRequest, key: AcquiredKey) -> Steps[m.SlotExportReply]:
        """The private key in a form that nobody reads in the clear."""
        description = self._catalogue.entry(key.provider).description
        if description is not None and request.format not in description.exports:
            offered = ", ".join(description.exports) or "none"
            raise RequestError(
                Status.NOT_SUPPORTED,
                f"Provider {key.provider} does not export keys as {request.format[:32]!r}; formats that it offers:"
                f" {offered}.",
            )
        material = yield from self._handles.use(
            key,
            lambda handle: for_bytes(key.provider, calls.ExportCall(handle, request.format, request.recipient)),
        )
        return m.SlotExportReply(material, key.version)

    def attest(self, request: m.SlotAttestRequest, key: AcquiredKey) -> Steps[m.SlotAttestReply]:
        """What the token states of a key version, signed together with the caller's nonce."""
        if not SHORTEST_NONCE <= len(request.nonce) <= LONGEST_NONCE:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"The nonce of an attestation has {SHORTEST_NONCE} to {LONGEST_NONCE} bytes, not"
                f" {len(request.nonce)}; let it be random.",
            )
        description = self._catalogue.entry(key.provider).description
        if description is not None and not description.attests:
            raise RequestError(Status.NOT_SUPPORTED, f"Provider {key.provider} does not attest keys; a TPM does.")
        attestation = yield from self._handles.use(
            key, lambda handle: for_attestation(key.provider, calls.AttestCall(handle, request.nonce, request.pcrs))
        )
        return m.SlotAttestReply(attestation, key.public_key, key.version)

    # Inside

    def _unwrap(
        self, keys: Keys, material: bytes, params: UnwrapKeyParams, target: calls.KeyTarget
    ) -> Steps[calls.MadeKey]:
        for key in keys:

            def unwrapped(handle: int, key: AcquiredKey = key) -> Steps[calls.MadeKey]:
                call = calls.UnwrapCall(
                    handle, params.algorithm, material, params.format, params.iv, params.aad, target
                )
                return for_key(key.provider, call)

            try:
                return (yield from self._handles.use(key, unwrapped))
            except DecryptionFailed:
                continue
        raise DecryptionFailed(Status.DECRYPTION_FAILED)

    def _copy(self, key: AcquiredKey, target: calls.KeyTarget) -> Steps[calls.MadeKey]:
        try:
            return (
                yield from self._handles.use(key, lambda handle: for_key(key.provider, calls.CopyCall(handle, target)))
            )
        except RequestError as refusal:
            if refusal.status is not Status.NOT_SUPPORTED:
                raise
        if P.EXPORT in key.permissions and self._carries_both_ways(key.provider):
            return (yield from self._wrapped_over(key, key.provider, target))
        raise error(
            Status.NOT_TRANSFERABLE,
            f"Provider {key.provider} cannot turn an ephemeral key into one that stays, but for one that may leave it"
            " (export) where it wraps; make the key in the slot.",
        )

    def _transfer(self, key: AcquiredKey, preferences: tuple[str, ...], *, fallback: bool) -> Plan:
        """To another provider, wrapped under a key that both are given for this and forget again."""
        if P.EXPORT not in key.permissions:
            raise error(
                Status.NOT_TRANSFERABLE,
                f"The key lives in {key.provider} and may not leave it (export), and the slot keeps its keys in"
                f" {', '.join(preferences)}.",
            )
        takers = tuple(name for name in preferences if self._carries(name, KeyOperation.UNWRAP))
        if not takers or not self._carries(key.provider, KeyOperation.WRAP):
            raise error(
                Status.NOT_TRANSFERABLE,
                f"The key cannot go from {key.provider} to {', '.join(preferences)}: it would go wrapped with"
                f" {_TRANSFER.name}, which not both of them can.",
            )
        choice = self._catalogue.choose(takers, key.key_type.name, fallback=fallback, generate=False)

        return Plan(choice, lambda target: self._wrapped_over(key, choice.provider, target))

    def _wrapped_over(self, key: AcquiredKey, taker: str, target: calls.KeyTarget) -> Steps[calls.MadeKey]:
        value = secrets.token_bytes(_TRANSFER_KEY.bytes)
        form = "raw" if key.key_type.symmetric else "pkcs8"
        try:
            wrapped = yield from self._under(key.provider, value, P.WRAP, lambda kek: self._wrap_for(key, kek))
            return (
                yield from self._under(
                    taker,
                    value,
                    P.UNWRAP,
                    lambda kek: for_key(taker, calls.UnwrapCall(kek, _TRANSFER.name, wrapped, form, b"", b"", target)),
                )
            )
        except (RequestError, DecryptionFailed) as refusal:
            # What one token wraps is not always what another one reads.
            if refusal.status not in {Status.NOT_SUPPORTED, Status.DECRYPTION_FAILED}:
                raise
            raise error(
                Status.NOT_TRANSFERABLE,
                f"A key of type {key.key_type.name} cannot go wrapped from {key.provider} to {taker}.",
            ) from None

    def _wrap_for(self, key: AcquiredKey, kek: int) -> Steps[bytes]:
        return self._handles.use(
            key, lambda handle: for_bytes(key.provider, calls.WrapCall(kek, _TRANSFER.name, handle, b"", b""))
        )

    def _carries_both_ways(self, provider: str) -> bool:
        return self._carries(provider, KeyOperation.WRAP) and self._carries(provider, KeyOperation.UNWRAP)

    def _carries(self, provider: str, operation: KeyOperation) -> bool:
        description = self._catalogue.entry(provider).description
        return (
            description is not None
            and _TRANSFER_KEY.name in description.imports
            and self._catalogue.claims(provider, _TRANSFER, operation)
        )

    def _under(self, provider: str, value: bytes, permission: P, ask: Callable[[int], Steps[T]]) -> Steps[T]:
        """Ask with the handle of a wrapping key that the provider has for this one time."""
        key_id = new_key_id()
        target = calls.KeyTarget(key_id, _TRANSFER_KEY.name, int(permission), ephemeral=True)
        reference = b""
        try:
            made = yield from for_key(provider, calls.ImportCall(target, "raw", value))
            reference = made.reference
            handle = yield from for_handle(
                provider,
                calls.LoadCall(target.key_id, target.key_type, target.permissions, made.reference, target.binding),
            )
            return (yield from ask(handle))
        finally:
            yield from self._making.destroy_quietly(provider, key_id, target.key_type, reference)

    def _with_both(self, first: AcquiredKey, second: AcquiredKey, ask: Callable[[int, int], Steps[T]]) -> Steps[T]:
        """As `Handles.use`, with two keys of one provider: where it lost either, both are loaded again."""
        one = yield from self._handles.handle(first)
        other = yield from self._handles.handle(second)
        try:
            return (yield from ask(one, other))
        except ProviderError as failure:
            if failure.status is not Status.HANDLE_UNKNOWN:
                raise
        one = yield from self._handles.load(first)
        other = yield from self._handles.load(second)
        try:
            return (yield from ask(one, other))
        except ProviderError as failure:
            if failure.status is not Status.HANDLE_UNKNOWN:
                raise
            raise ProviderError(
                Status.PROVIDER_UNAVAILABLE,
                f"Provider {first.provider} is being restarted; try again shortly.",
                origin=failure.origin,
            ) from None


def _check_strength(key: KeyType, wrapped: KeyType) -> None:
    """Refuse a cipher's key under a shorter one: who breaks that one has both (Clulow 2003)."""
    if {key.family, wrapped.family} <= _CIPHERS and key.bits < wrapped.bits:
        raise KeyUseError(
            Status.KEY_OPERATION_NOT_PERMITTED,
            f"A key of type {wrapped.name} does not go under a shorter one of type {key.name}; take a wrapping key of"
            f" {wrapped.bits} bits.",
        )


def _check_aad(row: Algorithm, aad: bytes) -> None:
    if aad and row.kind is Kind.KEY_WRAP:
        raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} takes no associated data; give no aad.")


def _check_form(params: UnwrapKeyParams, row: KeyType) -> None:
    form = "raw" if row.symmetric else "pkcs8"
    if params.format != form:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"A key of type {row.name} is wrapped as {form}, not as {params.format[:16]!r}.",
        )
