"""TSS2 PRIVATE KEY: what is written is read, what others write is read, what cannot be served is refused."""

from contextlib import suppress

import pytest
from asn1crypto import core, pem
from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss import TPM2B_PRIVATE, TPM2B_PUBLIC, TPM2B_SENSITIVE
from tpm2_pytss.tsskey import TSSPrivKey

from hsmbridge.core.errors import RequestError, Status
from hsmbridge.providers.tpm.tss2_file import Tss2Key, Tss2Kind, from_file, to_der, to_pem

PUBLIC = TPM2B_SENSITIVE.keyedhash_from_secret(b"secret")[1]
PRIVATE = TPM2B_PRIVATE(bytes(range(64)))
KEYS = st.builds(
    Tss2Key,
    kind=st.just(Tss2Kind.LOADABLE),
    parent=st.sampled_from([0x40000001, 0x81000001, 0x81FFFFFF]),
    public=st.just(PUBLIC),
    private=st.binary(max_size=200).map(TPM2B_PRIVATE),
) | st.builds(
    Tss2Key,
    kind=st.just(Tss2Kind.IMPORTABLE),
    parent=st.just(0x40000001),
    public=st.just(PUBLIC),
    private=st.binary(max_size=200).map(TPM2B_PRIVATE),
    secret=st.binary(max_size=200),
)


def same(one: Tss2Key, other: Tss2Key) -> bool:
    return (
        (one.kind, one.parent, one.secret) == (other.kind, other.parent, other.secret)
        and one.public.marshal() == other.public.marshal()
        and one.private.marshal() == other.private.marshal()
    )


@given(KEYS)
def test_what_is_written_is_read(key: Tss2Key) -> None:
    assert same(from_file(to_pem(key)), key)
    assert same(from_file(to_der(key)), key)


def test_the_library_of_the_tpm_stack_writes_and_reads_the_same_bytes() -> None:
    ours = Tss2Key(Tss2Kind.LOADABLE, 0x81000001, PUBLIC, PRIVATE)
    theirs = TSSPrivKey(PRIVATE, PUBLIC, empty_auth=True, parent=0x81000001)
    assert to_der(ours) == theirs.to_der()
    assert same(from_file(theirs.to_pem()), ours)
    assert TSSPrivKey.from_pem(to_pem(ours)).parent == 0x81000001


@given(st.binary(max_size=300))
def test_noise_is_no_file(noise: bytes) -> None:
    for content in (noise, pem.armor("TSS2 PRIVATE KEY", noise)):
        with pytest.raises(RequestError) as refused:
            from_file(content)
        assert refused.value.status is Status.INVALID_ARGUMENT


@given(KEYS, st.data())
def test_a_changed_file_is_read_or_refused_and_nothing_else(key: Tss2Key, data: st.DataObject) -> None:
    changed = bytearray(to_der(key))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(RequestError):
        from_file(bytes(changed))


def file(oid: str = "2.23.133.10.1.3", *, tagged: bytes = b"\xa0\x03\x01\x01\xff", private: bytes = b"") -> bytes:
    """A file from its parts, the tagged ones as they are."""
    parts = [
        core.ObjectIdentifier(oid).dump(),
        tagged,
        core.Integer(0x40000001).dump(),
        core.OctetString(bytes(PUBLIC.marshal())).dump(),
        core.OctetString(private or bytes(PRIVATE.marshal())).dump(),
    ]
    content = b"".join(parts)
    return b"\x30\x82" + len(content).to_bytes(2) + content


EMPTY_AUTH = b"\xa0\x03\x01\x01\xff"
POLICY = b"\xa1\x0f\x30\x0d\x30\x0b\xa0\x04\x02\x02\x01\x6b\xa1\x03\x04\x01\x00"
AUTH_POLICY = b"\xa3\x15\x30\x13\x30\x11" + POLICY


def test_a_boolean_as_tpm2_openssl_writes_it_is_read() -> None:
    assert from_file(file(tagged=b"\xa0\x03\x01\x01\x01")).kind is Tss2Kind.LOADABLE


def test_a_description_and_what_else_may_stand_there_is_passed_over() -> None:
    assert from_file(file(tagged=EMPTY_AUTH + b"\xa4\x05\x0c\x03key" + b"\xa5\x03\x01\x01\x00"))


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (file(tagged=b""), Status.NOT_SUPPORTED, "password"),
        (file(tagged=b"\xa0\x03\x01\x01\x00"), Status.NOT_SUPPORTED, "password"),
        (file(tagged=EMPTY_AUTH + POLICY), Status.NOT_SUPPORTED, "policy"),
        (file(tagged=EMPTY_AUTH + AUTH_POLICY), Status.NOT_SUPPORTED, "policy"),
        (file(tagged=EMPTY_AUTH + b"\xa5\x03\x01\x01\xff"), Status.NOT_SUPPORTED, "RSA parent"),
        (file("2.23.133.10.1.5"), Status.NOT_SUPPORTED, "sealed"),
        (file("2.23.133.10.1.9"), Status.INVALID_ARGUMENT, "identifier"),
        (file("2.23.133.10.1.4"), Status.INVALID_ARGUMENT, "secret"),
        (file(tagged=EMPTY_AUTH + b"\xa2\x04\x04\x02\x00\x00"), Status.INVALID_ARGUMENT, "secret"),
        (file(private=b"\x00\x01\x00\x00"), Status.INVALID_ARGUMENT, "read"),
        (file() + b"\x00", Status.INVALID_ARGUMENT, "read"),
        (bytes(20_000), Status.INVALID_ARGUMENT, "long"),
    ],
    # A public area is random, and the names of tests are not.
    ids=[f"{word}-{number}" for number, word in enumerate(("password",) * 2 + ("policy",) * 2 + ("other",) * 8)],
)
def test_what_it_cannot_serve_is_refused_with_the_reason(content: bytes, status: Status, word: str) -> None:
    with pytest.raises(RequestError) as refused:
        from_file(content)
    assert refused.value.status is status
    assert word in str(refused.value)


def test_the_public_area_is_one_that_the_stack_knows() -> None:
    with pytest.raises(RequestError):
        from_file(file().replace(bytes(PUBLIC.marshal())[2:6], b"\xff" * 4))
    assert TPM2B_PUBLIC.unmarshal(PUBLIC.marshal())[1] == len(PUBLIC.marshal())


def test_an_element_that_is_of_no_type_there_is_refused() -> None:
    content = core.Sequence.load(to_der(Tss2Key(Tss2Kind.LOADABLE, 0x81000001, PUBLIC, PRIVATE))).contents
    real = b"\x09\x01\x00"
    with pytest.raises(RequestError) as refused:
        from_file(bytes(core.Sequence(contents=content + real).dump()))
    assert refused.value.status is Status.INVALID_ARGUMENT
