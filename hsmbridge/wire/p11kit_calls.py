"""The calls of p11-kit's RPC protocol: numbers and signatures, one row a call.

A signature says which arguments follow, in the order of PKCS#11; request and reply of a call have different ones.
Both sides compare the signature that came with their own table, so every character of it counts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hsmbridge.wire.p11kit_bodies import U32, string

_TOKEN = re.compile(r"ay|fy|au|fu|aA|fA|[yuvszMP]")


@dataclass(frozen=True, slots=True)
class Call:
    """One row.

    Attributes:
        number: on the wire.
        name: of the PKCS#11 function.
        request, response: the signatures.
        since: the protocol version that brought it.
        arguments, results: the signatures, cut into their types.
        request_head, response_head: what a body begins with: the number and the signature.
    """

    number: int
    name: str
    request: str
    response: str
    since: int
    arguments: tuple[str, ...] = field(init=False)
    results: tuple[str, ...] = field(init=False)
    request_head: bytes = field(init=False)
    response_head: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", tuple(_TOKEN.findall(self.request)))
        object.__setattr__(self, "results", tuple(_TOKEN.findall(self.response)))
        object.__setattr__(self, "request_head", U32(self.number) + string(self.request.encode()))
        object.__setattr__(self, "response_head", U32(self.number) + string(self.response.encode()))

    @property
    def cancels(self) -> bool:
        """Whether a NULL mechanism stands for the end of an operation here (C_*Init)."""
        return self.name.endswith("Init") and "M" in self.arguments


_ROWS: tuple[Call, ...] = (
    Call(1, "C_Initialize", "ayyay", "", 0),
    Call(2, "C_Finalize", "", "", 0),
    Call(3, "C_GetInfo", "", "vsusv", 0),
    Call(4, "C_GetSlotList", "yfu", "au", 0),
    Call(5, "C_GetSlotInfo", "u", "ssuvv", 0),
    Call(6, "C_GetTokenInfo", "u", "ssssuuuuuuuuuuuvvs", 0),
    Call(7, "C_GetMechanismList", "ufu", "au", 0),
    Call(8, "C_GetMechanismInfo", "uu", "uuu", 0),
    Call(9, "C_InitToken", "uayz", "", 0),
    Call(10, "C_OpenSession", "uu", "u", 0),
    Call(11, "C_CloseSession", "u", "", 0),
    Call(12, "C_CloseAllSessions", "u", "", 0),
    Call(13, "C_GetSessionInfo", "u", "uuuu", 0),
    Call(14, "C_InitPIN", "uay", "", 0),
    Call(15, "C_SetPIN", "uayay", "", 0),
    Call(16, "C_GetOperationState", "ufy", "ay", 0),
    Call(17, "C_SetOperationState", "uayuu", "", 0),
    Call(18, "C_Login", "uuay", "", 0),
    Call(19, "C_Logout", "u", "", 0),
    Call(20, "C_CreateObject", "uaA", "u", 0),
    Call(21, "C_CopyObject", "uuaA", "u", 0),
    Call(22, "C_DestroyObject", "uu", "", 0),
    Call(23, "C_GetObjectSize", "uu", "u", 0),
    Call(24, "C_GetAttributeValue", "uufA", "aAu", 0),
    Call(25, "C_SetAttributeValue", "uuaA", "", 0),
    Call(26, "C_FindObjectsInit", "uaA", "", 0),
    Call(27, "C_FindObjects", "ufu", "au", 0),
    Call(28, "C_FindObjectsFinal", "u", "", 0),
    Call(29, "C_EncryptInit", "uMu", "", 0),
    Call(30, "C_Encrypt", "uayfy", "ay", 0),
    Call(31, "C_EncryptUpdate", "uayfy", "ay", 0),
    Call(32, "C_EncryptFinal", "ufy", "ay", 0),
    Call(33, "C_DecryptInit", "uMu", "", 0),
    Call(34, "C_Decrypt", "uayfy", "ay", 0),
    Call(35, "C_DecryptUpdate", "uayfy", "ay", 0),
    Call(36, "C_DecryptFinal", "ufy", "ay", 0),
    Call(37, "C_DigestInit", "uM", "", 0),
    Call(38, "C_Digest", "uayfy", "ay", 0),
    Call(39, "C_DigestUpdate", "uay", "", 0),
    Call(40, "C_DigestKey", "uu", "", 0),
    Call(41, "C_DigestFinal", "ufy", "ay", 0),
    Call(42, "C_SignInit", "uMu", "", 0),
    Call(43, "C_Sign", "uayfy", "ay", 0),
    Call(44, "C_SignUpdate", "uay", "", 0),
    Call(45, "C_SignFinal", "ufy", "ay", 0),
    Call(46, "C_SignRecoverInit", "uMu", "", 0),
    Call(47, "C_SignRecover", "uayfy", "ay", 0),
    Call(48, "C_VerifyInit", "uMu", "", 0),
    Call(49, "C_Verify", "uayay", "", 0),
    Call(50, "C_VerifyUpdate", "uay", "", 0),
    Call(51, "C_VerifyFinal", "uay", "", 0),
    Call(52, "C_VerifyRecoverInit", "uMu", "", 0),
    Call(53, "C_VerifyRecover", "uayfy", "ay", 0),
    Call(54, "C_DigestEncryptUpdate", "uayfy", "ay", 0),
    Call(55, "C_DecryptDigestUpdate", "uayfy", "ay", 0),
    Call(56, "C_SignEncryptUpdate", "uayfy", "ay", 0),
    Call(57, "C_DecryptVerifyUpdate", "uayfy", "ay", 0),
    Call(58, "C_GenerateKey", "uMaA", "u", 0),
    Call(59, "C_GenerateKeyPair", "uMaAaA", "uu", 0),
    Call(60, "C_WrapKey", "uMuufy", "ay", 0),
    Call(61, "C_UnwrapKey", "uMuayaA", "u", 0),
    Call(62, "C_DeriveKey", "uMuaA", "u", 0),
    Call(63, "C_SeedRandom", "uay", "", 0),
    Call(64, "C_GenerateRandom", "ufy", "ay", 0),
    Call(65, "C_WaitForSlotEvent", "u", "u", 0),
    Call(66, "C_LoginUser", "uuayay", "", 1),
    Call(67, "C_SessionCancel", "uu", "", 1),
    Call(68, "C_MessageEncryptInit", "uMu", "", 1),
    Call(69, "C_EncryptMessage", "uayayayfy", "ay", 1),
    Call(70, "C_EncryptMessageBegin", "uayay", "", 1),
    Call(71, "C_EncryptMessageNext", "uayayfyu", "ay", 1),
    Call(72, "C_MessageEncryptFinal", "u", "", 1),
    Call(73, "C_MessageDecryptInit", "uMu", "", 1),
    Call(74, "C_DecryptMessage", "uayayayfy", "ay", 1),
    Call(75, "C_DecryptMessageBegin", "uayay", "", 1),
    Call(76, "C_DecryptMessageNext", "uayayfyu", "ay", 1),
    Call(77, "C_MessageDecryptFinal", "u", "", 1),
    Call(78, "C_MessageSignInit", "uMu", "", 1),
    Call(79, "C_SignMessage", "uayayfy", "ay", 1),
    Call(80, "C_SignMessageBegin", "uay", "", 1),
    Call(81, "C_SignMessageNext", "uayayyfy", "ay", 1),
    Call(82, "C_MessageSignFinal", "u", "", 1),
    Call(83, "C_MessageVerifyInit", "uMu", "", 1),
    Call(84, "C_VerifyMessage", "uayayay", "", 1),
    Call(85, "C_VerifyMessageBegin", "uay", "", 1),
    Call(86, "C_VerifyMessageNext", "uayayay", "", 1),
    Call(87, "C_MessageVerifyFinal", "u", "", 1),
    Call(88, "C_InitToken2", "uays", "", 1),
    Call(89, "C_DeriveKey2", "uMuaA", "uPu", 2),
)

CALLS: Mapping[int, Call] = MappingProxyType({row.number: row for row in _ROWS})
"""Every call by its number."""
