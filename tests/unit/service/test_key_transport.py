"""Wrapping, unwrapping, persisting, exporting and attesting keys through the whole pipeline."""

import pytest

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.errors import DecryptionFailed, HsmBridgeError, KeyUseError, ProviderError, RequestError, Status
from hsmbridge.core.identifiers import CryptoResourceId
from hsmbridge.core.key_types import key_type
from hsmbridge.core.params import GenerateKeyParams, ImportKeyParams, UnwrapKeyParams, WrapKeyParams
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.core.policy import NoncePolicy, Role
from tests.unit.service.served import Served
from tests.unit.storage.opened import BOB

WRAPPING = P.WRAP | P.UNWRAP
SIGNING = P.SIGN | P.VERIFY
KWP = WrapKeyParams(algorithm="AES-256-KWP")


def unwrap_params(type_name: str = "EC-P256", permissions: P = SIGNING, **more: object) -> UnwrapKeyParams:
    values: dict[str, object] = {"algorithm": "AES-256-KWP", "format": "pkcs8"}
    return UnwrapKeyParams(key_type=type_name, permissions=int(permissions), **(values | more))  # type: ignore[arg-type]


def wrapped(service: Served, kek: str = "kek", name: str = "web", params: WrapKeyParams = KWP) -> m.WrapReply:
    return service.ask(m.WrapRequest(service.id(kek), service.id(name), params), m.WrapReply)


def refused(service: Served, request: object, principal: str = "uid:1000") -> HsmBridgeError:
    """What an operation is refused for."""
    with pytest.raises(HsmBridgeError) as refusal:
        service.ask(request, m.Empty, principal)  # type: ignore[arg-type]  # any request
    return refusal.value


def keys(service: Served) -> None:
    """A wrapping key, and a signing key that may leave."""
    service.slot("kek", "AES-256", WRAPPING)
    service.slot("web", "EC-P256", SIGNING | P.EXPORT)


def ephemeral(
    service: Served,
    permissions: P = SIGNING,
    type_name: str = "EC-P256",
    provider: str = "here",
    nonce_policy: NoncePolicy = NoncePolicy.SERVICE,
) -> m.KeyReply:
    params = GenerateKeyParams(key_type=type_name, permissions=int(permissions))
    return service.ask(m.GenerateRequest(params, "", provider, nonce_policy), m.KeyReply)


# Wrapping


@pytest.mark.parametrize("algorithm", ["AES-256-KW", "AES-256-KWP"])
def test_a_secret_key_comes_back_from_under_another(service: Served, algorithm: str) -> None:
    service.slot("kek", "AES-256", WRAPPING)
    service.slot("mac", "HMAC-SHA256", SIGNING | P.EXPORT)
    service.slot("back", "HMAC-SHA256", SIGNING, empty=True)
    material = wrapped(service, name="mac", params=WrapKeyParams(algorithm=algorithm)).material
    params = unwrap_params("HMAC-SHA256", algorithm=algorithm, format="raw")
    assert service.ask(m.UnwrapRequest(service.id("kek"), material, params, "back"), m.KeyReply).version == 1
    macs = [
        service.ask(m.MacRequest(service.id(name), "HMAC-SHA256", b"x"), m.MacReply).mac for name in ("mac", "back")
    ]
    assert macs[0] == macs[1]


def test_a_private_key_comes_back_as_an_ephemeral_one(service: Served) -> None:
    keys(service)
    material = wrapped(service).material
    made = service.ask(m.UnwrapRequest(service.id("kek"), material, unwrap_params()), m.KeyReply)
    assert made.resource is not None
    assert made.public_key == service.ask(m.SlotShowRequest("web"), m.SlotInfo).versions[0].public_key
    signed = service.ask(m.SignRequest(made.resource, "ECDSA-P256-SHA256", b"x"), m.SignReply)
    service.ask(m.VerifyRequest(service.id("web"), "ECDSA-P256-SHA256", b"x", signed.signature), m.VerifyReply)


def test_an_aead_wraps_with_a_nonce_of_the_service_that_never_repeats(service: Served) -> None:
    service.slot("kek", "AES-256", WRAPPING, algorithms=("AES-256-GCM",))
    service.slot("web", "EC-P256", SIGNING | P.EXPORT)
    params = WrapKeyParams(algorithm="AES-256-GCM", aad=b"label")
    replies = [wrapped(service, params=params) for _ in range(3)]
    assert len({reply.iv for reply in replies}) == 3
    back = unwrap_params(algorithm="AES-256-GCM", iv=replies[1].iv, aad=b"label")
    service.ask(m.UnwrapRequest(service.id("kek"), replies[1].material, back), m.KeyReply)
    other = unwrap_params(algorithm="AES-256-GCM", iv=replies[1].iv, aad=b"another")
    assert refused(service, m.UnwrapRequest(service.id("kek"), replies[1].material, other)).status is (
        Status.DECRYPTION_FAILED
    )
    given = WrapKeyParams(algorithm="AES-256-GCM", iv=b"n" * 12)
    request = m.WrapRequest(service.id("kek"), service.id("web"), given)
    assert refused(service, request).status is Status.INVALID_ARGUMENT


def test_a_callers_nonce_wraps_once(service: Served) -> None:
    service.slot("kek", "AES-256", WRAPPING, algorithms=("AES-256-GCM",), nonce_policy=NoncePolicy.CALLER)
    service.slot("web", "EC-P256", SIGNING | P.EXPORT)
    params = WrapKeyParams(algorithm="AES-256-GCM", iv=b"n" * 12)
    assert wrapped(service, params=params).iv == b"n" * 12
    assert refused(service, m.WrapRequest(service.id("kek"), service.id("web"), params)).status is Status.NONCE_REUSED


def test_what_an_older_version_wrapped_is_unwrapped_after_a_rotation(service: Served) -> None:
    service.slot("kek", "AES-256", WRAPPING | P.GENERATE)
    service.slot("web", "EC-P256", SIGNING | P.EXPORT)
    first = wrapped(service)
    service.ask(m.SlotRotateRequest("kek"), m.SlotInfo)
    second = wrapped(service)
    assert (first.version, second.version) == (1, 2)
    for reply in (first, second):
        service.ask(m.UnwrapRequest(service.id("kek"), reply.material, unwrap_params()), m.KeyReply)


@pytest.mark.parametrize(
    ("kek", "web", "missing"),
    [(P.UNWRAP, SIGNING | P.EXPORT, "wrap"), (WRAPPING, SIGNING, "export")],
)
def test_without_wrap_or_export_no_provider_is_asked(service: Served, kek: P, web: P, missing: str) -> None:
    service.slot("kek", "AES-256", kek)
    service.slot("web", "EC-P256", web)
    request = m.WrapRequest(service.id("kek"), service.id("web"), KWP)
    service.calls.clear()
    refusal = refused(service, request)
    assert refusal.status is Status.KEY_OPERATION_NOT_PERMITTED
    assert missing in refusal.message
    assert service.calls == []


def test_a_key_that_the_caller_may_use_but_not_export_stays(service: Served) -> None:
    keys(service)
    for name, permissions in (("kek", WRAPPING), ("web", SIGNING)):
        service.ask(m.SlotGrantRequest(name, BOB, Role.USE, int(permissions)), m.SlotInfo)
    kek, web = (service.id(f"uid-1000/{name}", BOB) for name in ("kek", "web"))
    assert refused(service, m.WrapRequest(kek, web, KWP), BOB).status is Status.KEY_OPERATION_NOT_PERMITTED


def test_a_hidden_slot_is_not_there(service: Served) -> None:
    keys(service)
    service.ask(m.SlotGrantRequest("kek", BOB, Role.USE, int(WRAPPING)), m.SlotInfo)
    for name in ("uid-1000/web", "uid-1000/none"):
        assert refused(service, m.ResolveRequest(name), BOB).status is Status.RESOURCE_NOT_FOUND
    request = m.WrapRequest(service.id("uid-1000/kek", BOB), service.id("web"), KWP)
    assert refused(service, request, BOB).status is Status.RESOURCE_NOT_FOUND


def test_an_ephemeral_key_is_let_go_when_wrapping_it_is_refused(service: Served) -> None:
    keys(service)
    key = ephemeral(service, SIGNING | P.EXPORT).resource
    assert key is not None
    refusals = [
        refused(service, request).status
        for request in (
            m.WrapRequest(key, service.id("web"), KWP),
            m.WrapRequest(service.id("kek"), service.id("kek"), KWP),
            m.WrapRequest(service.id("web"), key, KWP),
            m.WrapRequest(service.id("kek"), key, WrapKeyParams(algorithm="AES-256-KWP", aad=b"x")),
        )
    ]
    assert refusals[-1] is Status.INVALID_ARGUMENT
    assert set(refusals[:-1]) == {Status.KEY_OPERATION_NOT_PERMITTED}
    released = service.session().resources.ephemeral.release(key)
    assert released is not None, "somebody still holds the key"


@pytest.mark.parametrize("lost", ["kek", "web", "both"])
def test_keys_that_the_provider_forgot_are_loaded_again(service: Served, lost: str) -> None:
    keys(service)
    wrapped(service)
    for name in ("kek", "web") if lost == "both" else (lost,):
        version = service.store.list_slots().records
        key_id = next(record for record in version if record.name.name == name).versions[0].key_id
        loads = [call for _, call in service.calls if isinstance(call, calls.LoadCall) and call.key_id == key_id]
        assert len(loads) == 1
        here = service.providers["here"]
        here.unload(here.load(loads[0].key_id, key_type(loads[0].key_type), 0, loads[0].reference, loads[0].binding))
    assert wrapped(service).material


def test_a_provider_that_forgets_for_ever_is_said_to_be_restarting(service: Served) -> None:
    keys(service)

    def forget(handle: int, *rest: object) -> bytes:
        raise ProviderError(Status.HANDLE_UNKNOWN)

    service.providers["here"].wrap = forget  # type: ignore[method-assign,assignment]  # the fault
    request = m.WrapRequest(service.id("kek"), service.id("web"), KWP)
    assert refused(service, request).status is Status.PROVIDER_UNAVAILABLE


def test_a_key_is_wrapped_inside_one_provider_only(service: Served) -> None:
    service.slot("kek", "AES-256", WRAPPING, "there")
    service.slot("web", "EC-P256", SIGNING | P.EXPORT)
    refusal = refused(service, m.WrapRequest(service.id("kek"), service.id("web"), KWP))
    assert refusal.status is Status.NOT_TRANSFERABLE
    assert "inside one provider" in refusal.message


@pytest.mark.parametrize(
    ("params", "status"),
    [
        (WrapKeyParams(algorithm="AES-128-KWP"), Status.KEY_TYPE_MISMATCH),
        (WrapKeyParams(algorithm="AES-256-CBC"), Status.INVALID_ARGUMENT),
        (WrapKeyParams(algorithm="SHA-256"), Status.INVALID_ARGUMENT),
        (WrapKeyParams(algorithm="AES-256-KWP", aad=b"label"), Status.INVALID_ARGUMENT),
        (WrapKeyParams(algorithm="AES-256-KWP", iv=b"iv"), Status.INVALID_ARGUMENT),
    ],
)
def test_what_does_not_wrap_is_refused(service: Served, params: WrapKeyParams, status: Status) -> None:
    keys(service)
    assert refused(service, m.WrapRequest(service.id("kek"), service.id("web"), params)).status is status


def test_a_key_does_not_wrap_itself(service: Served) -> None:
    service.slot("kek", "AES-256", WRAPPING | P.EXPORT)
    assert refused(service, m.WrapRequest(service.id("kek"), service.id("kek"), KWP)).status is Status.INVALID_ARGUMENT


def test_the_audit_says_which_keys_and_how(service: Served) -> None:
    keys(service)
    wrapped(service)
    record = service.audited[-1]
    assert (record.operation, record.subject, record.algorithm) == ("wrap", "uid-1000/kek uid-1000/web", "AES-256-KWP")


# Unwrapping


@pytest.mark.parametrize(
    "damage",
    [b"", b"garbage", b"\0" * 40, lambda material: material[:-1] + b"\0", lambda material: material + b"\0" * 8],
)
def test_whatever_is_wrong_with_it_is_one_answer(service: Served, damage: object) -> None:
    keys(service)
    service.slot("back", "EC-P256", SIGNING, empty=True)
    given = damage(wrapped(service).material) if callable(damage) else damage
    with pytest.raises(DecryptionFailed) as refusal:
        service.ask(m.UnwrapRequest(service.id("kek"), given, unwrap_params(), "back"), m.KeyReply)  # type: ignore[arg-type]
    assert refusal.value.message == DecryptionFailed(Status.DECRYPTION_FAILED).message
    assert service.ask(m.SlotShowRequest("back"), m.SlotInfo).versions == []


def test_a_key_of_another_type_is_no_different_from_garbage(service: Served) -> None:
    keys(service)
    with pytest.raises(DecryptionFailed):
        service.ask(m.UnwrapRequest(service.id("kek"), wrapped(service).material, unwrap_params("EC-P384")), m.KeyReply)


def test_a_wrapped_secret_becomes_what_who_unwraps_says_if_the_length_fits(service: Served) -> None:
    service.slot("kek", "AES-256", WRAPPING)
    service.slot("box", "AES-128", P.ENCRYPT | P.EXPORT)
    material = wrapped(service, name="box").material
    for wanted, permission in (("AES-128", P.ENCRYPT), ("SECRET-128", P.DERIVE)):
        params = unwrap_params(wanted, permission, format="raw")
        service.ask(m.UnwrapRequest(service.id("kek"), material, params), m.KeyReply)
    longer = unwrap_params("AES-256", P.ENCRYPT, format="raw")
    with pytest.raises(DecryptionFailed):
        service.ask(m.UnwrapRequest(service.id("kek"), material, longer), m.KeyReply)


@pytest.mark.parametrize(("asked", "flag"), [(P.EXPORT, True), (P.WRAP, False), (P.UNWRAP, False)])
def test_an_unwrapped_key_never_leaves_again_and_wraps_only_where_its_slot_says_so(
    service: Served, asked: P, flag: bool
) -> None:
    service.slot("kek", "AES-256", WRAPPING)
    service.slot("inner", "AES-256", WRAPPING | P.EXPORT)
    material = wrapped(service, name="inner").material
    service.slot("back", "AES-256", WRAPPING | P.EXPORT, empty=True, imported_wrapping_key=flag)
    params = unwrap_params("AES-256", asked, format="raw")
    request = m.UnwrapRequest(service.id("kek"), material, params, "back")
    assert refused(service, request).status is Status.INVALID_PERMISSIONS
    without = unwrap_params("AES-256", asked, format="raw")
    ask = m.UnwrapRequest(service.id("kek"), material, without)
    assert refused(service, ask).status is Status.INVALID_PERMISSIONS


def test_a_slot_that_says_so_gets_a_wrapping_key(service: Served) -> None:
    service.slot("kek", "AES-256", WRAPPING)
    service.slot("inner", "AES-256", WRAPPING | P.EXPORT)
    service.slot("back", "AES-256", WRAPPING, empty=True, imported_wrapping_key=True)
    params = unwrap_params("AES-256", WRAPPING, format="raw")
    material = wrapped(service, name="inner").material
    assert service.ask(m.UnwrapRequest(service.id("kek"), material, params, "back"), m.KeyReply).version == 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"format": "raw"}, Status.INVALID_ARGUMENT),
        ({"format": "spki"}, Status.INVALID_ARGUMENT),
        ({"aad": b"label"}, Status.INVALID_ARGUMENT),
        ({"iv": b"iv"}, Status.INVALID_ARGUMENT),
        ({"algorithm": "AES-128-KWP"}, Status.KEY_TYPE_MISMATCH),
        ({"algorithm": "HMAC-SHA256"}, Status.INVALID_ARGUMENT),
    ],
)
def test_parameters_that_cannot_be_right_are_refused(
    service: Served, changes: dict[str, object], status: Status
) -> None:
    keys(service)
    request = m.UnwrapRequest(service.id("kek"), wrapped(service).material, unwrap_params(**changes))  # type: ignore[arg-type]
    assert refused(service, request).status is status


def test_what_is_too_large_for_a_key_is_refused_before_any_provider(service: Served) -> None:
    keys(service)
    service.calls.clear()
    request = m.UnwrapRequest(service.id("kek"), bytes(65_537), unwrap_params())
    assert refused(service, request).status is Status.DATA_TOO_LARGE
    params = ImportKeyParams(key_type="AES-256", permissions=int(P.ENCRYPT), format="raw")
    assert refused(service, m.ImportRequest(params, bytes(65_537))).status is Status.DATA_TOO_LARGE
    assert service.calls == []


def test_a_key_is_unwrapped_where_the_wrapping_key_is(service: Served) -> None:
    keys(service)
    service.slot("back", "EC-P256", SIGNING, "there", empty=True)
    request = m.UnwrapRequest(service.id("kek"), wrapped(service).material, unwrap_params(), "back")
    assert refused(service, request).status is Status.NOT_TRANSFERABLE


# Persisting


def test_an_ephemeral_key_gets_a_copy_that_outlives_it(service: Served) -> None:
    key = ephemeral(service, SIGNING | P.EXPORT)
    assert key.resource is not None
    service.slot("kept", "EC-P256", SIGNING, empty=True)
    made = service.ask(m.PersistRequest(key.resource, "kept"), m.KeyReply)
    assert (made.resource, made.version, made.public_key) == (None, 1, key.public_key)
    version = service.ask(m.SlotShowRequest("kept"), m.SlotInfo).versions[0]
    assert (P(version.permissions), version.origin) == (SIGNING, "generated")
    service.ask(m.SignRequest(key.resource, "ECDSA-P256-SHA256", b"x"), m.SignReply)
    service.ask(m.ReleaseRequest(key.resource), m.Empty)
    service.ask(m.SignRequest(service.id("kept"), "ECDSA-P256-SHA256", b"x"), m.SignReply)


def test_a_copy_is_allowed_nothing_that_the_key_was_not(service: Served) -> None:
    key = ephemeral(service, P.VERIFY).resource
    assert key is not None
    service.slot("kept", "EC-P256", SIGNING, empty=True)
    service.ask(m.PersistRequest(key, "kept"), m.KeyReply)
    request = m.SignRequest(service.id("kept"), "ECDSA-P256-SHA256", b"x")
    assert refused(service, request).status is Status.KEY_OPERATION_NOT_PERMITTED


def test_a_key_goes_to_another_provider_only_where_it_may_leave(service: Served) -> None:
    service.slot("kept", "EC-P256", SIGNING, "there", empty=True)
    stays, leaves = ephemeral(service), ephemeral(service, SIGNING | P.EXPORT)
    assert stays.resource is not None
    assert leaves.resource is not None
    refusal = refused(service, m.PersistRequest(stays.resource, "kept"))
    assert refusal.status is Status.NOT_TRANSFERABLE
    assert "may not leave" in refusal.message
    service.calls.clear()
    made = service.ask(m.PersistRequest(leaves.resource, "kept"), m.KeyReply)
    assert (made.version, made.public_key) == (1, leaves.public_key)
    service.ask(m.SignRequest(service.id("kept"), "ECDSA-P256-SHA256", b"x"), m.SignReply)
    # The key that it travelled under is gone on both sides.
    for provider in ("here", "there"):
        of_it = [call for name, call in service.calls if name == provider]
        imported = [call.target.key_id for call in of_it if isinstance(call, calls.ImportCall)]
        destroyed = [call.key_id for call in of_it if isinstance(call, calls.DestroyCall)]
        assert len(imported) == 1
        assert destroyed == imported


def test_a_failed_transfer_leaves_nothing(service: Served) -> None:
    service.slot("kept", "EC-P256", SIGNING, "there", empty=True)
    key = ephemeral(service, SIGNING | P.EXPORT).resource
    assert key is not None
    service.failures[calls.UnwrapCall] = ProviderError(Status.PROVIDER_FAILED)
    assert refused(service, m.PersistRequest(key, "kept")).status is Status.PROVIDER_FAILED
    assert service.ask(m.SlotShowRequest("kept"), m.SlotInfo).versions == []
    assert service.ask(m.PersistRequest(key, "kept"), m.KeyReply).version > 0


def test_a_provider_that_cannot_copy_says_so(service: Served) -> None:
    service.slot("kept", "EC-P256", SIGNING, empty=True)
    key = ephemeral(service).resource
    assert key is not None
    service.failures[calls.CopyCall] = RequestError(Status.NOT_SUPPORTED)
    assert refused(service, m.PersistRequest(key, "kept")).status is Status.NOT_TRANSFERABLE


def test_a_key_that_may_leave_stays_wrapped_over_where_its_provider_cannot_copy(service: Served) -> None:
    service.slot("kept", "EC-P256", SIGNING, empty=True)
    key = ephemeral(service, SIGNING | P.EXPORT)
    assert key.resource is not None
    service.failures[calls.CopyCall] = RequestError(Status.NOT_SUPPORTED)
    made = service.ask(m.PersistRequest(key.resource, "kept"), m.KeyReply)
    assert (made.version, made.public_key) == (1, key.public_key)
    service.ask(m.SignRequest(service.id("kept"), "ECDSA-P256-SHA256", b"x"), m.SignReply)


def test_what_cannot_be_persisted_is_refused(service: Served) -> None:
    service.slot("web", "EC-P256", SIGNING)
    service.slot("other", "EC-P384", SIGNING, empty=True)
    key = ephemeral(service).resource
    assert key is not None
    assert refused(service, m.PersistRequest(service.id("web"), "other")).status is Status.INVALID_ARGUMENT
    assert refused(service, m.PersistRequest(key, "")).status is Status.INVALID_ARGUMENT
    assert refused(service, m.PersistRequest(key, "other")).status is Status.KEY_TYPE_MISMATCH
    assert refused(service, m.PersistRequest(key, "uid-1001/none")).status is Status.RESOURCE_NOT_FOUND
    assert refused(service, m.PersistRequest(key, "web")).status is Status.KEY_OPERATION_NOT_PERMITTED


@pytest.mark.parametrize("permissions", [P.ENCRYPT | P.DECRYPT, WRAPPING])
def test_a_key_that_encrypted_goes_into_no_slot_whose_nonces_come_from_callers(service: Served, permissions: P) -> None:
    key = ephemeral(service, permissions, "AES-256").resource
    assert key is not None
    service.slot("kept", "AES-256", permissions, empty=True, nonce_policy=NoncePolicy.CALLER)
    assert refused(service, m.PersistRequest(key, "kept")).status is Status.INVALID_ARGUMENT


def chosen(service: Served, policy: NoncePolicy, permissions: P = P.ENCRYPT | P.DECRYPT) -> CryptoResourceId:
    """An ephemeral key whose nonces the caller chooses."""
    made = ephemeral(service, permissions, "AES-256", nonce_policy=policy).resource
    assert made is not None
    return made


@pytest.mark.parametrize("policy", [NoncePolicy.CALLER, NoncePolicy.MONOTONIC])
def test_an_ephemeral_key_takes_the_nonces_of_its_caller_once(service: Served, policy: NoncePolicy) -> None:
    key = chosen(service, policy)
    request = m.EncryptRequest(key, "AES-256-GCM", b"plain", b"aad", b"twelve bytes")
    reply = service.ask(request, m.EncryptReply)
    assert reply.nonce == b"twelve bytes"
    back = m.DecryptRequest(key, "AES-256-GCM", reply.ciphertext, b"aad", reply.nonce, reply.tag)
    assert service.ask(back, m.DecryptReply).plaintext == b"plain"
    assert refused(service, request).status is Status.NONCE_REUSED
    start = m.ContextStart(b"twelve bytes")
    context = m.ContextEncryptRequest(key, "AES-256-GCM", m.ContextKind.AEAD, start)
    assert refused(service, context).status is Status.NONCE_REUSED
    counter = m.EncryptRequest(key, "AES-256-CTR", b"", b"", b"sixteen bytes...")
    assert refused(service, counter).status is Status.ALGORITHM_NOT_ALLOWED
    assert refused(service, m.EncryptRequest(key, "AES-256-GCM", b"")).status is Status.INVALID_ARGUMENT
    assert refused(service, m.EncryptRequest(key, "AES-256-GCM", b"", b"", b"short")).status is Status.INVALID_ARGUMENT


def test_a_slot_keeps_its_own_nonce_policy(service: Served) -> None:
    service.slot("kept", "AES-256", P.ENCRYPT | P.DECRYPT, empty=True)
    params = GenerateKeyParams(key_type="AES-256", permissions=int(P.ENCRYPT | P.DECRYPT))
    request = m.GenerateRequest(params, "kept", "", NoncePolicy.CALLER)
    assert refused(service, request).status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("permissions", [P.ENCRYPT | P.DECRYPT, WRAPPING])
def test_a_key_with_nonces_of_its_caller_is_not_kept(service: Served, permissions: P) -> None:
    key = chosen(service, NoncePolicy.CALLER, permissions)
    for policy in NoncePolicy:
        service.slot(policy, "AES-256", permissions, empty=True, nonce_policy=policy)
        assert refused(service, m.PersistRequest(key, policy)).status is Status.INVALID_ARGUMENT


# Public keys, export, attestation


def test_a_public_key_verifies_and_does_nothing_else(service: Served) -> None:
    service.slot("web", "EC-P256", SIGNING)
    spki = service.ask(m.SlotShowRequest("web"), m.SlotInfo).versions[0].public_key
    service.slot("theirs", "EC-P256", SIGNING | P.EXPORT, empty=True)
    for asked in (SIGNING, P.VERIFY | P.EXPORT):
        params = ImportKeyParams(key_type="EC-P256", permissions=int(asked), format="spki")
        assert refused(service, m.ImportRequest(params, spki, "theirs")).status is Status.INVALID_PERMISSIONS
    params = ImportKeyParams(key_type="EC-P256", permissions=int(P.VERIFY), format="spki")
    assert service.ask(m.ImportRequest(params, spki, "theirs"), m.KeyReply).version == 1
    signed = service.ask(m.SignRequest(service.id("web"), "ECDSA-P256-SHA256", b"x"), m.SignReply)
    service.ask(m.VerifyRequest(service.id("theirs"), "ECDSA-P256-SHA256", b"x", signed.signature), m.VerifyReply)
    request = m.SignRequest(service.id("theirs"), "ECDSA-P256-SHA256", b"x")
    assert refused(service, request).status is Status.KEY_OPERATION_NOT_PERMITTED


def test_an_export_needs_export_before_any_provider_is_asked(service: Served) -> None:
    service.slot("web", "EC-P256", SIGNING)
    service.slot("free", "EC-P256", SIGNING | P.EXPORT)
    request = m.SlotExportRequest(service.id("web"), "toy")
    service.calls.clear()
    assert refused(service, request).status is Status.KEY_OPERATION_NOT_PERMITTED
    refusal = refused(service, m.SlotExportRequest(service.id("free"), "pem"))
    assert refusal.status is Status.NOT_SUPPORTED
    assert "toy" in refusal.message
    assert service.calls == []
    reply = service.ask(m.SlotExportRequest(service.id("free"), "toy", b"me"), m.SlotExportReply)
    assert reply == m.SlotExportReply(b"as nobody reads it, for me", 1)


def test_an_attestation_is_over_the_callers_nonce(service: Served) -> None:
    service.slot("web", "EC-P256", SIGNING)
    reply = service.ask(m.SlotAttestRequest(service.id("web"), b"12345678"), m.SlotAttestReply)
    assert (reply.attestation.statement, reply.version) == (b"it is here: 12345678", 1)
    assert reply.attestation.quote is None
    with_pcrs = service.ask(m.SlotAttestRequest(service.id("web"), b"12345678", pcrs=(7, 0)), m.SlotAttestReply)
    assert with_pcrs.attestation.quote == calls.Quote(b"and well: 12345678", b"signed", ((7, b""), (0, b"")))
    for nonce in (b"", b"1234567", bytes(65)):
        request = m.SlotAttestRequest(service.id("web"), nonce)
        assert refused(service, request).status is Status.INVALID_ARGUMENT
    service.slot("soft", "EC-P256", SIGNING, "plain")
    assert refused(service, m.SlotAttestRequest(service.id("soft"), bytes(8))).status is Status.NOT_SUPPORTED


def test_a_refused_use_is_audited_with_the_slot_that_it_was_refused_for(service: Served) -> None:
    name = service.slot("verifier", "EC-P256", P.VERIFY)
    key = service.id(name)
    with pytest.raises(KeyUseError):
        service.ask(m.SignRequest(key, "ECDSA-P256-SHA256", b"message"), m.SignReply)
    record = service.audited[-1]
    assert (record.operation, record.subject, record.status) == ("sign", name, Status.KEY_OPERATION_NOT_PERMITTED)
