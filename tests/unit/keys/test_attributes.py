"""What applications keep with a slot: set, changed, taken away, and bounded."""

import pytest

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.keys.attributes import ATTRIBUTES_MAX, VALUES_MAX, check_attributes


def test_they_stand_by_number_and_empty_ones_are_none() -> None:
    assert check_attributes({0x102: b"id", 0x3: b"label", 0x101: b""}) == ((0x3, b"label"), (0x102, b"id"))


@pytest.mark.parametrize(
    "attributes",
    [
        dict.fromkeys(range(ATTRIBUTES_MAX + 1), b"x"),
        {3: b"x" * (VALUES_MAX + 1)},
        {1: b"x" * VALUES_MAX, 2: b"y"},
        {-1: b"x"},
        {2**32: b""},
    ],
)
def test_there_are_not_too_many_and_not_too_long_ones(attributes: dict[int, bytes]) -> None:
    with pytest.raises(RequestError) as refused:
        check_attributes(attributes)
    assert refused.value.status is Status.INVALID_ARGUMENT
