"""The table from calls of the wire to what they mean, for one application.

A row's function takes exactly the arguments of the call's signature. What has no row answers
CKR_FUNCTION_NOT_SUPPORTED: among it the message-based functions of PKCS#11 3.0, whose parameters are the memory of
the caller's structs and mean nothing here.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from hsmbridge.frontends.asking import Answer
from hsmbridge.frontends.p11kit.ciphering import Ciphers
from hsmbridge.frontends.p11kit.digesting import Digests
from hsmbridge.frontends.p11kit.finding import Finding
from hsmbridge.frontends.p11kit.general import General
from hsmbridge.frontends.p11kit.making import Making
from hsmbridge.frontends.p11kit.numbers import Ckr
from hsmbridge.frontends.p11kit.pins import Pins
from hsmbridge.frontends.p11kit.refusals import Refused
from hsmbridge.frontends.p11kit.signing import Signatures
from hsmbridge.frontends.p11kit.state import Application
from hsmbridge.wire.p11kit import Argument, Result
from hsmbridge.wire.p11kit_calls import Call

Function = Callable[..., Answer]
"""A method of the parts below; which arguments it takes the call's signature says."""

_INITIALIZE = "C_Initialize"


class Calls:
    """What one application can call."""

    def __init__(self, application: Application) -> None:
        """`application`: whose calls these are."""
        self._application = application
        signatures = Signatures(application)
        self.functions: Mapping[str, Function] = MappingProxyType(_table(application, signatures))
        self._at_once: Mapping[str, Callable[..., Sequence[Result] | None]] = {
            "C_SignInit": signatures.sign_init_at_once
        }

    def at_once(self, call: Call, arguments: Sequence[Argument]) -> Sequence[Result] | None:
        """The results of a call that programs repeat, where nothing has to be asked for it; else `start` it."""
        function = self._at_once.get(call.name)
        return None if function is None or not self._application.initialized else function(*arguments)

    def start(self, call: Call, arguments: Sequence[Argument]) -> Answer:
        """A call with its arguments, not begun yet. Raises Refused."""
        if not self._application.initialized and call.name != _INITIALIZE:
            raise Refused(Ckr.CRYPTOKI_NOT_INITIALIZED)
        function = self.functions.get(call.name)
        if function is None:
            raise Refused(Ckr.FUNCTION_NOT_SUPPORTED)
        return function(*arguments)


def _table(application: Application, signatures: Signatures) -> dict[str, Function]:
    general, finding, making = General(application), Finding(application), Making(application)
    ciphers, digests, pins = Ciphers(application), Digests(application), Pins(application)
    return {
        _INITIALIZE: general.initialize,
        "C_Finalize": general.finalize,
        "C_GetInfo": general.get_info,
        "C_GetSlotList": general.get_slot_list,
        "C_GetSlotInfo": general.get_slot_info,
        "C_GetTokenInfo": general.get_token_info,
        "C_GetMechanismList": general.get_mechanism_list,
        "C_GetMechanismInfo": general.get_mechanism_info,
        "C_OpenSession": general.open_session,
        "C_CloseSession": general.close_session,
        "C_CloseAllSessions": general.close_all_sessions,
        "C_GetSessionInfo": general.get_session_info,
        "C_GetOperationState": general.get_operation_state,
        "C_InitToken": pins.init_token,
        "C_InitToken2": pins.init_token_2,
        "C_InitPIN": pins.init_pin,
        "C_SetPIN": pins.set_pin,
        "C_Login": pins.login,
        "C_LoginUser": pins.login_user,
        "C_Logout": pins.logout,
        "C_SeedRandom": general.seed_random,
        "C_GenerateRandom": general.generate_random,
        "C_WaitForSlotEvent": general.wait_for_slot_event,
        "C_FindObjectsInit": finding.find_objects_init,
        "C_FindObjects": finding.find_objects,
        "C_FindObjectsFinal": finding.find_objects_final,
        "C_GetAttributeValue": finding.get_attribute_value,
        "C_SetAttributeValue": finding.set_attribute_value,
        "C_GetObjectSize": finding.get_object_size,
        "C_SignInit": signatures.sign_init,
        "C_Sign": signatures.sign,
        "C_SignUpdate": signatures.sign_update,
        "C_SignFinal": signatures.sign_final,
        "C_VerifyInit": signatures.verify_init,
        "C_Verify": signatures.verify,
        "C_VerifyUpdate": signatures.verify_update,
        "C_VerifyFinal": signatures.verify_final,
        "C_EncryptInit": ciphers.encrypt_init,
        "C_Encrypt": ciphers.encrypt,
        "C_EncryptUpdate": ciphers.encrypt_update,
        "C_EncryptFinal": ciphers.encrypt_final,
        "C_DecryptInit": ciphers.decrypt_init,
        "C_Decrypt": ciphers.decrypt,
        "C_DecryptUpdate": ciphers.decrypt_update,
        "C_DecryptFinal": ciphers.decrypt_final,
        "C_DigestInit": digests.digest_init,
        "C_Digest": digests.digest,
        "C_DigestUpdate": digests.digest_update,
        "C_DigestFinal": digests.digest_final,
        "C_SessionCancel": digests.session_cancel,
        "C_GenerateKey": making.generate_key,
        "C_GenerateKeyPair": making.generate_key_pair,
        "C_CreateObject": making.create_object,
        "C_CopyObject": making.copy_object,
        "C_DestroyObject": making.destroy_object,
        "C_WrapKey": making.wrap_key,
        "C_UnwrapKey": making.unwrap_key,
        "C_DeriveKey": making.derive_key,
        "C_DeriveKey2": making.derive_key_2,
    }
