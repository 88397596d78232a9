"""What replies of /cacerts do to the trust anchors."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from est.ca.authority import Authority, bridge, new_intermediate, new_root
from est.ca.record import Record
from est.trust.roll_over import first_anchors, rolled_over
from hsmbridge.core.errors import CertificateError
from tests.integration.est.lab import ec_key, issue, named


def test_the_order_of_the_certificates_does_not_count() -> None:
    old, new = new_root(ec_key(), "Root"), new_root(ec_key(), "Root 2")
    bridges = (bridge(old, new.certificate), bridge(new, old.certificate))
    for reply in itertools.permutations((old.certificate, new.certificate, *bridges)):
        found = rolled_over(reply, (old.certificate,))
        assert set(found.anchors) == {old.certificate, new.certificate}
        assert found.accepted == (new.certificate,)
        assert set(found.intermediates) == set(bridges)
        assert found.first_expiry() < datetime.now(UTC) + timedelta(days=366)


def test_the_old_root_stays_when_the_server_no_longer_sends_it() -> None:
    old, new = new_root(ec_key(), "Root"), new_root(ec_key(), "Root 2")
    found = rolled_over((new.certificate, bridge(old, new.certificate)), (old.certificate,))
    assert found.anchors == (old.certificate, new.certificate)


def test_a_root_that_nobody_vouches_for_is_not_taken() -> None:
    old, stranger = new_root(ec_key(), "Root"), new_root(ec_key(), "Root")
    assert rolled_over((old.certificate, stranger.certificate), (old.certificate,)).unconfirmed == (
        stranger.certificate,
    )
    with pytest.raises(CertificateError, match="confirm"):
        rolled_over((stranger.certificate,), (old.certificate,))
    # Its own voucher, under a name that we trust, proves nothing.
    forged = bridge(stranger, new_root(ec_key(), "Root").certificate)
    assert forged not in rolled_over((old.certificate, forged), (old.certificate,)).intermediates


def test_a_root_that_has_ended_is_dropped() -> None:
    old, new = new_root(ec_key(), "Root", timedelta(days=1)), new_root(ec_key(), "Root 2")
    reply = (old.certificate, new.certificate, bridge(old, new.certificate))
    later = datetime.now(UTC) + timedelta(days=2)
    with pytest.raises(CertificateError):
        rolled_over(reply, (old.certificate,), later)
    assert rolled_over(reply, (old.certificate, new.certificate), later).anchors == (new.certificate,)


def test_a_certificate_that_is_not_a_cas_spoils_the_reply() -> None:
    root = new_root(ec_key(), "Root")
    leaf = issue(Authority(root, Record(":memory:")), ec_key(), named("leaf"))
    with pytest.raises(CertificateError, match="not a CA"):
        rolled_over((root.certificate, leaf), (root.certificate,))


def test_only_a_root_can_be_confirmed() -> None:
    root = new_root(ec_key(), "Root")
    below = new_intermediate(root, ec_key(), "Issuing")
    with pytest.raises(CertificateError, match="root"):
        first_anchors((root.certificate, below.certificate), below.certificate)
