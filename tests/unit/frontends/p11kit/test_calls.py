"""The table of calls and the wire's signatures agree, and every status has a CKR_* that is none of OK."""

import inspect
import types
import typing

import pytest

from hsmbridge.core.errors import STATUS_TABLE, Status
from hsmbridge.frontends.p11kit.calls import Calls
from hsmbridge.frontends.p11kit.directory import Directory
from hsmbridge.frontends.p11kit.numbers import Ckr
from hsmbridge.frontends.p11kit.refusals import Refused, ckr_of
from hsmbridge.frontends.p11kit.settings import LoginPolicy, P11KitSettings, TemplatePolicy, TokenView
from hsmbridge.frontends.p11kit.state import Application
from hsmbridge.wire.p11kit_attributes import Attribute, AttributeRoom
from hsmbridge.wire.p11kit_calls import CALLS
from hsmbridge.wire.p11kit_mechanisms import Mechanism

SETTINGS = P11KitSettings(
    tokens=TokenView.PROVIDERS,
    templates=TemplatePolicy.ATTENUATE,
    login=LoginPolicy.NONE,
    pin=b"",
    version="1.2.3",
    max_data=1000,
    max_connections=1,
    max_connections_per_principal=1,
    max_in_flight=1,
    max_sessions=2,
    timeout=1.0,
)
TYPES: dict[str, object] = {
    "y": int,
    "u": int,
    "z": bytes | None,
    "s": bytes,
    "ay": bytes | None,
    "fy": int | None,
    "fu": int | None,
    "M": Mechanism | None,
    "aA": tuple[Attribute, ...],
    "fA": tuple[AttributeRoom, ...],
}


@pytest.fixture
def calls() -> Calls:
    directory = Directory(TokenView.PROVIDERS, lambda: b"", lambda: 0.0)
    return Calls(Application("uid:0", 2, directory, SETTINGS, lambda principal, slot: False))


def test_every_function_takes_what_its_calls_signature_brings(calls: Calls) -> None:
    by_name = {call.name: call for call in CALLS.values()}
    for name, function in calls.functions.items():
        hints = typing.get_type_hints(function)
        taken = [hints[parameter] for parameter in inspect.signature(function).parameters]
        assert taken == [TYPES[token] for token in by_name[name].arguments], name
        assert isinstance(function, types.MethodType)


def test_the_newer_forms_of_a_call_are_there_with_the_older(calls: Calls) -> None:
    assert {"C_DeriveKey", "C_DeriveKey2", "C_Login", "C_LoginUser"} <= calls.functions.keys()
    assert not [name for name in calls.functions if "Message" in name]


def test_only_c_initialize_comes_first(calls: Calls) -> None:
    for call in CALLS.values():
        if call.name != "C_Initialize":
            with pytest.raises(Refused) as refused:
                calls.start(call, ())
            assert refused.value.ckr is Ckr.CRYPTOKI_NOT_INITIALIZED


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_every_status_is_told_by_the_one_table(status: Status) -> None:
    assert ckr_of(status, "C_Sign") == STATUS_TABLE[status].ckr != Ckr.OK


def test_an_object_that_is_gone_is_no_key_that_is_gone() -> None:
    assert ckr_of(Status.RESOURCE_NOT_FOUND, "C_Sign") == Ckr.KEY_HANDLE_INVALID
    assert ckr_of(Status.RESOURCE_NOT_FOUND, "C_DestroyObject") == Ckr.OBJECT_HANDLE_INVALID


def test_settings_never_show_the_pin() -> None:
    assert "1234" not in repr(
        P11KitSettings(
            **{name: getattr(SETTINGS, name) for name in P11KitSettings.__dataclass_fields__ if name != "pin"},
            pin=b"1234",
        )
    )
