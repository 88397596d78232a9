"""Agreed keys that their token cannot keep: ephemeral ones of the daemon, where the slot says derive_to_software."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmbridge.core import calls
from hsmbridge.core import messages as m
from hsmbridge.core.params import X963, AgreeKeyParams
from hsmbridge.core.permissions import KeyOperationPermission as P
from tests.unit.service.served import Served

PEER = (
    ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)


@pytest.fixture
def lacking(service: Served) -> Served:
    """A service whose provider "here" agrees, and has no KDF for what it agreed."""
    told = service.providers["here"].describe()
    claims = tuple(claim for claim in told.claims if claim.algorithm != X963().algorithm)
    service.catalogue.available("here", msgspec.structs.replace(told, claims=claims), 1)
    return service


def agree(service: Served, *, may_leave: bool) -> m.KeyReply:
    service.slot("own", "EC-P256", P.DERIVE, derive_to_software=may_leave)
    params = AgreeKeyParams(key_type="AES-128", permissions=P.UNWRAP, peer_public_key=PEER, kdf=X963(shared_info=b"x"))
    return service.ask(m.AgreeRequest(service.id("own"), params, ""), m.KeyReply)


def test_the_secret_becomes_an_ephemeral_key_of_the_daemon(lacking: Served) -> None:
    reply = agree(lacking, may_leave=True)
    assert reply.resource is not None
    made = [name for name, call in lacking.calls if isinstance(call, calls.DeriveFromSecretCall)]
    assert made == ["there"]
    assert lacking.ephemeral_keys() == 1
    lacking.end(lacking.session())
    assert lacking.ephemeral_keys() == 0


def test_no_secret_leaves_its_provider_where_the_slot_does_not_say_so(lacking: Served) -> None:
    agree(lacking, may_leave=False)
    assert not [call for _, call in lacking.calls if isinstance(call, calls.AgreeSecretCall)]


def test_what_the_provider_keeps_stays_there(service: Served) -> None:
    agree(service, may_leave=True)
    assert not [call for _, call in service.calls if isinstance(call, calls.AgreeSecretCall)]
