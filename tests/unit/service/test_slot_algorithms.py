"""The algorithms that a new slot names: each is one that some provider of the slot has."""

import msgspec
import pytest

from hsmbridge.core import messages as m
from hsmbridge.core.errors import ProviderError, RequestError, Status
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.service.catalogue import Entry, ProviderCatalogue
from tests.unit.service.served import OPERATOR, Served, Traveller

URI = "pkcs11:token=here;object=theirs;type=private"
P256 = "ECDSA-P256-SHA256"
LACKING = "AES-256-GCM"


@pytest.fixture
def lacking(service: Served) -> Served:
    """A service whose provider "here" has no AES-GCM and no ECDSA, as some TPMs and tokens have none."""
    told = service.providers["here"].describe()
    claims = tuple(claim for claim in told.claims if claim.algorithm not in {LACKING, P256})
    service.catalogue.available("here", msgspec.structs.replace(told, claims=claims), 1)
    return service


@pytest.mark.parametrize("empty", [False, True])
def test_an_algorithm_that_no_provider_of_a_slot_has_is_refused_when_it_is_made(lacking: Served, empty: bool) -> None:
    with pytest.raises(RequestError, match=r"AES-256-GCM is offered by none .* \(here\)") as refusal:
        lacking.slot("box", "AES-256", P.ENCRYPT, algorithms=("AES-256-CTR", LACKING), empty=empty)
    assert refusal.value.status is Status.NOT_SUPPORTED
    assert lacking.calls == []
    assert lacking.slot("box", "AES-256", P.ENCRYPT, algorithms=("AES-256-CTR",), empty=empty) == "uid-1000/box"


def test_one_provider_that_has_it_is_enough(lacking: Served) -> None:
    request = m.SlotCreateRequest("box", "AES-256", ("here", "there"), int(P.ENCRYPT), algorithms=(LACKING,))
    assert lacking.ask(request, m.SlotInfo).algorithms == (LACKING,)


def test_a_key_is_not_adopted_for_what_its_provider_does_not_have(lacking: Served) -> None:
    here = lacking.providers["here"]
    assert isinstance(here, Traveller)
    here.put(URI, "EC-P256", P.SIGN)
    with pytest.raises(RequestError, match="offered by none"):
        lacking.ask(m.SlotAdoptRequest("taken", "here", URI, algorithms=(P256,)), m.SlotAdoptReply, OPERATOR)
    assert lacking.ask(m.SlotListRequest(""), m.SlotListReply, OPERATOR).slots == []


def test_of_a_provider_that_was_never_there_nothing_is_known() -> None:
    catalogue = ProviderCatalogue([Entry("away", "pkcs11", "process")])
    catalogue.require_offered(("away",), (LACKING,))
    with pytest.raises(ProviderError):
        catalogue.require_offered(("nowhere",), ())
