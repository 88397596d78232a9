"""Operations that use a key: sign, verify, MAC, encrypt, decrypt, encapsulate, decapsulate; digest and random too."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import cast

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.algorithms import Algorithm, KeyOperation, Kind, algorithm
from hsmbridge.core.errors import (
    DecryptionFailed,
    HsmBridgeError,
    KeyUseError,
    LimitError,
    RequestError,
    SignatureInvalid,
    Status,
)
from hsmbridge.core.key_types import Maturity
from hsmbridge.core.params import DEFAULT_SIGNATURE, SignatureParameters
from hsmbridge.core.policy import NoncePolicy
from hsmbridge.engine.handles import Handles
from hsmbridge.engine.steps import (
    Steps,
    for_bytes,
    for_each,
    for_encapsulated,
    for_encrypted,
    for_nothing,
    outcome,
    store,
)
from hsmbridge.keys.access import AcquiredKey
from hsmbridge.keys.nonces import CallerNonces, ServiceNonces
from hsmbridge.service.catalogue import ProviderCatalogue

MAX_RANDOM = 64 * 1024
"""Bytes of one RANDOM request."""

SIGNED_TOGETHER = 16
"""Messages of a batch in one call to the provider; a longer batch keeps several of its threads busy."""

Keys = tuple[AcquiredKey, ...]


class KeyUse:
    """One method an operation; the keys come acquired, in the order to try them."""

    def __init__(
        self, catalogue: ProviderCatalogue, handles: Handles, service_nonces: ServiceNonces, caller_nonces: CallerNonces
    ) -> None:
        """Args: what providers claim, what is loaded, and both kinds of nonces."""
        self._catalogue = catalogue
        self._handles = handles
        self._service_nonces = service_nonces
        self._caller_nonces = caller_nonces

    def sign(self, request: m.SignRequest, keys: Keys) -> Steps[m.SignReply]:
        row = _of_kind(request.algorithm, Kind.SIGNATURE, "sign")
        key = keys[0]
        self._catalogue.require(key.provider, row, KeyOperation.SIGN)
        signature = yield from self._handles.use(
            key,
            lambda handle: for_bytes(
                key.provider, calls.SignCall(handle, row.name, request.message, request.parameters)
            ),
        )
        return m.SignReply(signature, key.version)

    def sign_messages(self, request: m.SignManyRequest, keys: Keys) -> Steps[m.SignManyReply]:
        row = _of_kind(request.algorithm, Kind.SIGNATURE, "sign")
        key = keys[0]
        self._catalogue.require(key.provider, row, KeyOperation.SIGN)
        parts = [
            request.messages[start : start + SIGNED_TOGETHER]
            for start in range(0, len(request.messages), SIGNED_TOGETHER)
        ]
        signatures = yield from self._handles.use(key, lambda handle: _signatures(key, row, handle, parts, request))
        return m.SignManyReply(signatures, key.version)

    def sign_many(self, requests: Sequence[m.SignRequest], keys: Keys) -> Steps[list[m.SignReply | HsmBridgeError]]:
        """Many signatures by one key and algorithm, in one go at the provider."""
        row = _of_kind(requests[0].algorithm, Kind.SIGNATURE, "sign")
        key = keys[0]
        self._catalogue.require(key.provider, row, KeyOperation.SIGN)
        handle = yield from self._handles.handle(key)
        groups = list(_alike(requests))
        answers = yield from for_each(
            key.provider,
            [
                calls.SignManyCall(handle, row.name, tuple([r.message for r in group]), group[0].parameters)
                for group in groups
            ],
        )
        replies: list[m.SignReply | HsmBridgeError] = []
        for group, signatures in zip(groups, answers, strict=True):
            if isinstance(signatures, list) and len(signatures) == len(group):
                replies += [m.SignReply(signature, key.version) for signature in signatures]
            else:
                # One of them failed, or the provider lost the key: each gets what it would have got alone.
                for request in group:
                    replies.append((yield from outcome(self.sign(request, keys))))
        return replies

    def verify(self, request: m.VerifyRequest, keys: Keys) -> Steps[m.VerifyReply]:
        row = _of_kind(request.algorithm, Kind.SIGNATURE, "verify")
        version = yield from self._verify(row, request.message, request.signature, request.parameters, keys)
        return m.VerifyReply(version)

    def mac(self, request: m.MacRequest, keys: Keys) -> Steps[m.MacReply]:
        row = _of_kind(request.algorithm, Kind.MAC, "compute a MAC")
        key = keys[0]
        self._catalogue.require(key.provider, row, KeyOperation.SIGN)
        mac = yield from self._handles.use(
            key, lambda handle: for_bytes(key.provider, calls.SignCall(handle, row.name, request.message))
        )
        return m.MacReply(mac, key.version)

    def verify_mac(self, request: m.MacVerifyRequest, keys: Keys) -> Steps[m.VerifyReply]:
        row = _of_kind(request.algorithm, Kind.MAC, "verify a MAC")
        version = yield from self._verify(row, request.message, request.mac, DEFAULT_SIGNATURE, keys)
        return m.VerifyReply(version)

    def encrypt(self, request: m.EncryptRequest, keys: Keys) -> Steps[m.EncryptReply]:
        row = algorithm(request.algorithm)
        key = keys[0]
        self._catalogue.require(key.provider, row, KeyOperation.ENCRYPT)
        if request.aad and row.kind is Kind.CIPHER:
            raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} does not authenticate; it takes no aad.")
        nonce = yield from self.nonce(row, key, request.nonce)
        encrypted = yield from self._handles.use(
            key,
            lambda handle: for_encrypted(
                key.provider, calls.EncryptCall(handle, row.name, nonce, request.plaintext, request.aad)
            ),
        )
        return m.EncryptReply(key.version, encrypted.nonce, encrypted.ciphertext, encrypted.tag)

    def decrypt(self, request: m.DecryptRequest, keys: Keys) -> Steps[m.DecryptReply]:
        row = algorithm(request.algorithm)
        for key in keys:
            self._catalogue.require(key.provider, row, KeyOperation.DECRYPT)
            try:
                plaintext = yield from self._handles.use(
                    key,
                    lambda handle, key=key: for_bytes(  # type: ignore[misc]  # mypy cannot infer a default's type
                        key.provider,
                        calls.DecryptCall(
                            handle, row.name, request.nonce, request.ciphertext, request.aad, request.tag
                        ),
                    ),
                )
            except DecryptionFailed:
                continue
            return m.DecryptReply(plaintext, key.version)
        raise DecryptionFailed(Status.DECRYPTION_FAILED)

    def encapsulate(self, request: m.EncapsulateRequest, keys: Keys) -> Steps[m.EncapsulateReply]:
        row = _of_kind(request.algorithm, Kind.KEM, "encapsulate")
        key = keys[0]
        self._catalogue.require(key.provider, row, KeyOperation.ENCAPSULATE)
        made = yield from self._handles.use(
            key, lambda handle: for_encapsulated(key.provider, calls.EncapsulateCall(handle, row.name))
        )
        return m.EncapsulateReply(made.ciphertext, made.secret, key.version)

    def decapsulate(self, request: m.DecapsulateRequest, keys: Keys) -> Steps[m.DecapsulateReply]:
        row = _of_kind(request.algorithm, Kind.KEM, "decapsulate")
        # ML-KEM rejects implicitly: a ciphertext of another version yields another secret, so only one is tried.
        key = keys[0]
        self._catalogue.require(key.provider, row, KeyOperation.DECAPSULATE)
        secret = yield from self._handles.use(
            key, lambda handle: for_bytes(key.provider, calls.DecapsulateCall(handle, row.name, request.ciphertext))
        )
        return m.DecapsulateReply(secret, key.version)

    def digest(self, request: m.DigestRequest) -> Steps[m.DigestReply]:
        row = _of_kind(request.algorithm, Kind.DIGEST, "digest")
        provider = self._catalogue.first_with(request.provider, row, KeyOperation.DIGEST)
        digest = yield from for_bytes(provider, calls.DigestCall(row.name, request.data))
        return m.DigestReply(digest, provider)

    def random(self, request: m.RandomRequest) -> Steps[m.RandomReply]:
        if not 0 <= request.length <= MAX_RANDOM:
            raise LimitError(Status.DATA_TOO_LARGE, f"One call gives 0 to {MAX_RANDOM} random bytes.")
        provider = self._catalogue.first_with(request.provider, None, None)
        data = yield from for_bytes(provider, calls.RandomCall(request.length))
        return m.RandomReply(data, provider)

    def _verify(
        self, row: Algorithm, message: bytes, signature: bytes, parameters: SignatureParameters, keys: Keys
    ) -> Steps[int]:
        for key in keys:
            self._catalogue.require(key.provider, row, KeyOperation.VERIFY)
            try:
                yield from self._handles.use(
                    key,
                    lambda handle, key=key: for_nothing(  # type: ignore[misc]  # mypy cannot infer a default's type
                        key.provider, calls.VerifyCall(handle, row.name, message, signature, parameters)
                    ),
                )
            except SignatureInvalid:
                continue
            return key.version
        raise SignatureInvalid(Status.SIGNATURE_INVALID)

    def nonce(self, row: Algorithm, key: AcquiredKey, given: bytes) -> Steps[bytes]:
        """The nonce to encrypt with, by the key's policy; never one that was used with the key version before."""
        if not row.nonce_size:
            if given:
                raise RequestError(Status.INVALID_ARGUMENT, f"{row.name} takes no nonce.")
            return b""
        policy = key.nonce_policy
        if policy is NoncePolicy.SERVICE:
            if given:
                raise RequestError(
                    Status.INVALID_ARGUMENT, "The service chooses the nonces of this key (nonce policy); give none."
                )
            return (yield from self._service_nonce(row, key))
        if len(given) != row.nonce_size:
            raise RequestError(
                Status.INVALID_ARGUMENT, f"{row.name} takes a nonce of {row.nonce_size} bytes, not {len(given)}."
            )
        if key.chosen is not None:
            key.chosen.use(row.name, given)
        else:
            yield from store(lambda: self._caller_nonces.use(key.key_id, policy, given))
        return given

    def _service_nonce(self, row: Algorithm, key: AcquiredKey) -> Steps[bytes]:
        if key.nonces is not None:
            nonce = key.nonces.next(row.nonce_size)
        else:
            nonce = self._service_nonces.next(key.key_id, row.nonce_size)
            while nonce is None:
                yield from store(lambda: self._service_nonces.lease(key.key_id))
                nonce = self._service_nonces.next(key.key_id, row.nonce_size)
        if nonce is None:
            raise KeyUseError(Status.KEY_ROTATION_REQUIRED)
        return nonce


def _signatures(
    key: AcquiredKey, row: Algorithm, handle: int, parts: list[tuple[bytes, ...]], request: m.SignManyRequest
) -> Steps[list[bytes]]:
    signatures: list[bytes] = []
    together = [calls.SignManyCall(handle, row.name, part, request.parameters) for part in parts]
    for answer in (yield from for_each(key.provider, together)):
        if isinstance(answer, HsmBridgeError):
            raise answer
        signatures += cast(list[bytes], answer)
    return signatures


def _alike(requests: Sequence[m.SignRequest]) -> Iterator[Sequence[m.SignRequest]]:
    """Runs of requests with the same parameters, short enough that several go to a provider side by side."""
    for _, run in groupby(requests, lambda request: request.parameters):
        alike = list(run)
        for start in range(0, len(alike), SIGNED_TOGETHER):
            yield alike[start : start + SIGNED_TOGETHER]


def _of_kind(name: str, kind: Kind, verb: str) -> Algorithm:
    row = algorithm(name)
    if row.kind is not kind:
        article = "an" if row.kind.value[0] in "AEIOUaeiou" else "a"
        raise RequestError(
            Status.INVALID_ARGUMENT, f"{row.name} is {article} {row.kind} algorithm; one cannot {verb} with it."
        )
    if kind is Kind.DIGEST or row.maturity is not Maturity.LEGACY or "verify" in verb:
        return row
    raise RequestError(Status.ALGORITHM_NOT_ALLOWED, f"{row.name} is kept for old data only; choose another.")
