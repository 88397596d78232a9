"""The store's master key sealed in a TPM, where wanted to its PCRs; a `hsmbridge.core.protocols.Protector`.

The sealed object is a keyed hash object under the storage root key (part 1 section 27.2) that only this TPM opens,
and with PCRs only while they are what they were (TPM2_PolicyPCR). The master key goes to the TPM and comes back in a
salted session that encrypts it. Every process of the daemon opens it once at its start, so it is done as a guest: what
the owner of the TPM has in its slots stays there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_RC,
    TPM2_SE,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPML_PCR_SELECTION,
    TPMS_KEYEDHASH_PARMS,
    TPMS_SENSITIVE_CREATE,
    TPMT_KEYEDHASH_SCHEME,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
    TPMU_PUBLIC_PARMS,
    TSS2_Exception,
)

from hsmbridge.core.errors import HsmBridgeError, RequestError, Status, StoreError
from hsmbridge.providers.tpm.device import Opened, Tpm
from hsmbridge.providers.tpm.errors import base_code
from hsmbridge.providers.tpm.secrecy import encrypting_session
from hsmbridge.providers.tpm.settings import TpmSettings

_T = TypeVar("_T")
_VERSION = 1
_PCRS = range(24)
_FIXED = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.NODA


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    """What the store keeps: of this layout's version, under which storage root key, to which PCRs, sealed."""

    version: int
    root_name: bytes
    pcrs: tuple[int, ...]
    private: bytes
    public: bytes


class TpmProtector:
    """Protects the master key by sealing it in a TPM.

    It connects for each call and leaves again. PCRs are those of the SHA-256 bank at the time when the store is made.
    """

    name = "TPM"

    def __init__(self, settings: TpmSettings, pcrs: tuple[int, ...] = ()) -> None:
        """Raises RequestError (INVALID_CONFIGURATION) for a PCR that no TPM has."""
        if any(pcr not in _PCRS for pcr in pcrs):
            raise RequestError(
                Status.INVALID_CONFIGURATION, f"PCRs are numbered 0 to {_PCRS[-1]}; `pcrs` names another."
            )
        self._settings = settings
        self._pcrs = tuple(sorted(set(pcrs)))

    def __repr__(self) -> str:
        return "TpmProtector()"

    def protect(self, master_key: bytes) -> bytes:
        """The sealed form. Raises StoreError (MASTER_KEY_UNAVAILABLE)."""

        def command(opened: Opened) -> bytes:
            opened.keys.make_room()
            template = _template(_pcr_policy(opened, self._pcrs) if self._pcrs else b"")
            sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=master_key))
            with _session(opened, TPM2_SE.HMAC) as session:
                private, public, *_ = opened.esapi.create(opened.root.handle, sensitive, template, session1=session)
            sealed = _Sealed(_VERSION, opened.root.name, self._pcrs, bytes(private.marshal()), bytes(public.marshal()))
            return msgspec.msgpack.encode(sealed)

        return self._do(command)

    def recover(self, protected: bytes) -> bytes:
        """The master key. Raises StoreError (MASTER_KEY_UNAVAILABLE)."""
        sealed = _read(protected)

        def command(opened: Opened) -> bytes:
            if opened.root.name != sealed.root_name:
                raise _locked(
                    "The store's master key was sealed in another TPM, or before this one was cleared; run the store"
                    " where it was made, or restore one whose master key is kept otherwise."
                )
            return _unseal(opened, sealed)

        return self._do(command, lambda failure: _explain(failure, sealed.pcrs))

    def _do(
        self, command: Callable[[Opened], _T], verdict: Callable[[TSS2_Exception], HsmBridgeError | None] | None = None
    ) -> _T:
        try:
            tpm = Tpm(self._settings, guest=True)
            try:
                return tpm.run(command, verdict)
            finally:
                tpm.close()
        except HsmBridgeError as failure:
            if failure.status in (Status.MASTER_KEY_UNAVAILABLE, Status.INVALID_CONFIGURATION):
                raise
            raise _locked(
                f"The TPM that protects the store's master key cannot be used. {failure.message}", failure.origin
            ) from failure


def _unseal(opened: Opened, sealed: _Sealed) -> bytes:
    private, _ = TPM2B_PRIVATE.unmarshal(sealed.private)
    public, _ = TPM2B_PUBLIC.unmarshal(sealed.public)
    opened.keys.make_room()
    object_ = opened.esapi.load(opened.root.handle, private, public)
    try:
        with _session(opened, TPM2_SE.POLICY if sealed.pcrs else TPM2_SE.HMAC) as session:
            if sealed.pcrs:
                opened.esapi.policy_pcr(session, b"", _selection(sealed.pcrs))
            return bytes(opened.esapi.unseal(object_, session1=session))
    finally:
        opened.esapi.flush_context(object_)


@contextmanager
def _session(opened: Opened, kind: int) -> Iterator[ESYS_TR]:
    session = encrypting_session(opened.esapi, opened.root.handle, kind)
    try:
        yield session
    finally:
        opened.esapi.flush_context(session)


def _pcr_policy(opened: Opened, pcrs: tuple[int, ...]) -> bytes:
    esapi = opened.esapi
    none = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
    trial = esapi.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.TRIAL, none, TPM2_ALG.SHA256)
    try:
        esapi.policy_pcr(trial, b"", _selection(pcrs))
        return bytes(esapi.policy_get_digest(trial))
    finally:
        esapi.flush_context(trial)


def _selection(pcrs: tuple[int, ...]) -> TPML_PCR_SELECTION:
    return TPML_PCR_SELECTION.parse("sha256:" + ",".join(map(str, pcrs)))


def _template(policy: bytes) -> TPM2B_PUBLIC:
    unsealing = 0 if policy else int(TPMA_OBJECT.USERWITHAUTH)
    no_scheme = TPMT_KEYEDHASH_SCHEME(scheme=TPM2_ALG.NULL)
    return TPM2B_PUBLIC(
        publicArea=TPMT_PUBLIC(
            type=TPM2_ALG.KEYEDHASH,
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=_FIXED | unsealing,
            authPolicy=policy,
            parameters=TPMU_PUBLIC_PARMS(keyedHashDetail=TPMS_KEYEDHASH_PARMS(scheme=no_scheme)),
        )
    )


def _read(protected: bytes) -> _Sealed:
    try:
        sealed = msgspec.msgpack.decode(protected, type=_Sealed)
        if sealed.version != _VERSION or any(pcr not in _PCRS for pcr in sealed.pcrs):
            raise ValueError("of another version")
        TPM2B_PRIVATE.unmarshal(sealed.private)
        TPM2B_PUBLIC.unmarshal(sealed.public)
    except (ValueError, TSS2_Exception) as cause:
        raise _damaged(repr(cause)) from None
    return sealed


def _explain(failure: TSS2_Exception, pcrs: tuple[int, ...]) -> HsmBridgeError | None:
    code = base_code(failure)
    if code in (TPM2_RC.POLICY_FAIL, TPM2_RC.PCR_CHANGED):
        numbers = ", ".join(map(str, pcrs))
        return _locked(
            f"The TPM does not give the store's master key: PCR {numbers} differ from what they were when it was"
            " sealed, as after a change of firmware, boot loader or its settings. Bring that state back, or restore a"
            " store whose master key is kept otherwise.",
            str(failure),
        )
    return _damaged(str(failure)) if code & TPM2_RC.FMT1 else None


def _damaged(origin: str) -> HsmBridgeError:
    return _locked("The protected master key in the store is damaged; restore the store from a backup.", origin)


def _locked(message: str, origin: str = "") -> HsmBridgeError:
    return StoreError(Status.MASTER_KEY_UNAVAILABLE, message, origin=origin)
