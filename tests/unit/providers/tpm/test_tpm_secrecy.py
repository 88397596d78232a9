"""Parameter encryption: what who listens between hsmbridge and the TPM learns, with it and without it."""

import contextlib
import secrets
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmbridge.core.algorithms import algorithm
from hsmbridge.core.errors import HsmBridgeError, Status
from hsmbridge.core.params import DEFAULT_SIGNATURE
from hsmbridge.core.permissions import KeyOperationPermission as P
from hsmbridge.providers.registry import ProviderSpec, open_provider
from hsmbridge.providers.tpm import TpmProtector, TpmProvider, TpmSettings, open_tpm
from tests.unit.providers.tpm.conftest import Rig
from tests.unit.providers.tpm.faults import opened
from tests.unit.providers.tpm.keys import SIGNING, Key, KnownKey


class Recorder:
    """Stands between a TPM's two sockets and its client, and keeps every byte."""

    def __init__(self, rig: Rig) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
        self.seen = bytearray()
        self._threads: list[threading.Thread] = []
        self._target = rig.directory / "swtpm.sock"
        self._listeners = [self._listen(suffix) for suffix in ("", ".ctrl")]

    @property
    def tcti(self) -> str:
        return f"swtpm:path={self.directory / 's'}"

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join(10)
        rmtree(self.directory)

    def _listen(self, suffix: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.directory / 's'}{suffix}")
        listener.listen()
        thread = threading.Thread(target=self._serve, args=(listener, f"{self._target}{suffix}"), daemon=True)
        self._threads.append(thread)
        thread.start()
        return listener

    def _serve(self, listener: socket.socket, target: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                thread = threading.Thread(target=self._pass, args=(client, target), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass(self, client: socket.socket, target: str) -> None:
        with client, socket.socket(socket.AF_UNIX) as tpm, contextlib.suppress(OSError):
            tpm.connect(target)
            other = {client: tpm, tpm: client}
            while True:
                for side in select.select(list(other), [], [])[0]:
                    content = side.recv(65536)
                    if not content:
                        return
                    self.seen += content
                    other[side].sendall(content)


@pytest.fixture
def recorder(rig: Rig) -> Iterator[Recorder]:
    recorder = Recorder(rig)
    yield recorder
    recorder.close()


def agreed(tpm: TpmProvider) -> tuple[bytes, bytes]:
    key = Key(tpm, "EC-P256", P.DERIVE)
    peer = ec.generate_private_key(ec.SECP256R1())
    spki = peer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ours = load_der_public_key(key.made.public_key)
    assert isinstance(ours, ec.EllipticCurvePublicKey)
    secret = tpm.agree_secret(key.handle, algorithm("ECDH-P256"), spki)
    assert secret == peer.exchange(ec.ECDH(), ours)
    return secret, secret


def decrypted(tpm: TpmProvider) -> tuple[bytes, bytes]:
    key, plaintext = Key(tpm, "RSA-2048", P.DECRYPT), secrets.token_bytes(32)
    public = load_der_public_key(key.made.public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    ciphertext = public.encrypt(plaintext, oaep)
    assert tpm.decrypt(key.handle, algorithm("RSA-OAEP-SHA256"), b"", ciphertext, b"", b"") == plaintext
    return plaintext, plaintext


def encrypted(tpm: TpmProvider) -> tuple[bytes, bytes]:
    key, plaintext = Key(tpm, "RSA-2048", P.ENCRYPT), secrets.token_bytes(32)
    tpm.encrypt(key.handle, algorithm("RSA-OAEP-SHA256"), b"", plaintext, b"")
    return plaintext, plaintext


def enciphered(tpm: TpmProvider) -> tuple[bytes, bytes]:
    key, plaintext = Key(tpm, "AES-128", P.ENCRYPT | P.DECRYPT), secrets.token_bytes(1500)
    row = algorithm("AES-128-CFB")
    sealed = tpm.encrypt(key.handle, row, bytes(16), plaintext, b"")
    assert tpm.decrypt(key.handle, row, bytes(16), sealed.ciphertext, b"", b"") == plaintext
    return plaintext[:64], plaintext[1100:1200]


def authenticated(tpm: TpmProvider) -> tuple[bytes, bytes]:
    key, message = Key(tpm, "HMAC-SHA256", SIGNING), secrets.token_bytes(64)
    return message, tpm.sign(key.handle, algorithm("HMAC-SHA256"), message, DEFAULT_SIGNATURE)


def authenticated_at_length(tpm: TpmProvider) -> tuple[bytes, bytes]:
    key, message = Key(tpm, "HMAC-SHA256", SIGNING), secrets.token_bytes(3000)
    return message[1100:1200], tpm.sign(key.handle, algorithm("HMAC-SHA256"), message, DEFAULT_SIGNATURE)


def digested(tpm: TpmProvider) -> tuple[bytes, bytes]:
    message = secrets.token_bytes(2000)
    return message[:100], tpm.digest(algorithm("SHA-256"), message)


def drawn(tpm: TpmProvider) -> tuple[bytes, bytes]:
    value = tpm.random(32)
    return value, value


USES = [agreed, decrypted, encrypted, enciphered, authenticated, authenticated_at_length, digested, drawn]


@pytest.mark.parametrize("use", USES)
def test_with_it_a_listener_sees_no_secret_and_without_it_does(
    recorder: Recorder, use: Callable[[TpmProvider], tuple[bytes, bytes]]
) -> None:
    for encrypts in (True, False):
        tpm = open_tpm(TpmSettings(tcti=recorder.tcti, parameter_encryption=encrypts))
        recorder.seen.clear()
        for secret in use(tpm):
            # The same test, without the encryption, shows that the recorder would see it.
            assert (secret in recorder.seen) is not encrypts
        tpm.close()


def test_an_imported_key_is_never_seen_with_it_or_without_it(recorder: Recorder) -> None:
    for encrypts in (True, False):
        tpm = open_tpm(TpmSettings(tcti=recorder.tcti, parameter_encryption=encrypts))
        value = secrets.token_bytes(32)
        KnownKey(tpm, "HMAC-SHA256", SIGNING, value)
        assert recorder.seen
        assert value not in recorder.seen
        tpm.close()


def test_a_sealed_master_key_is_never_seen(recorder: Recorder) -> None:
    for pcrs in ((), (7, 16)):
        protector = TpmProtector(TpmSettings(tcti=recorder.tcti), pcrs)
        master = secrets.token_bytes(32)
        assert protector.recover(protector.protect(master)) == master
        assert recorder.seen
        assert master not in recorder.seen


@pytest.fixture
def encrypting(rig: Rig) -> Iterator[TpmProvider]:
    provider = open_tpm(TpmSettings(tcti=rig.tcti, parameter_encryption=True))
    yield provider
    provider.close()


def test_it_goes_on_after_a_restart_of_the_tpm(rig: Rig, encrypting: TpmProvider) -> None:
    key = Key(encrypting, "HMAC-SHA256", SIGNING)
    row = algorithm("HMAC-SHA256")
    before = encrypting.sign(key.handle, row, b"message", DEFAULT_SIGNATURE)
    rig.restart()
    assert encrypting.sign(key.handle, row, b"message", DEFAULT_SIGNATURE) == before


def test_it_goes_on_after_another_program_flushed_its_session(encrypting: TpmProvider) -> None:
    key = Key(encrypting, "HMAC-SHA256", SIGNING)
    row = algorithm("HMAC-SHA256")
    before = encrypting.sign(key.handle, row, b"message", DEFAULT_SIGNATURE)
    opened(encrypting).connection.flush_all()
    assert encrypting.sign(key.handle, row, b"message", DEFAULT_SIGNATURE) == before


def test_a_failed_command_does_not_end_the_session(encrypting: TpmProvider) -> None:
    key = Key(encrypting, "RSA-2048", P.ENCRYPT | P.DECRYPT)
    row = algorithm("RSA-OAEP-SHA256")
    sealed = encrypting.encrypt(key.handle, row, b"", b"message", b"")
    for _ in range(3):
        with pytest.raises(HsmBridgeError) as refused:
            encrypting.decrypt(key.handle, row, b"", bytes(256), b"", b"")
        assert refused.value.status is Status.DECRYPTION_FAILED
        assert encrypting.decrypt(key.handle, row, b"", sealed.ciphertext, b"", b"") == b"message"


def test_it_leaves_no_session_behind(rig: Rig) -> None:
    first = open_tpm(TpmSettings(tcti=rig.tcti, parameter_encryption=True))
    first.random(8)
    assert len(opened(first).connection.handles(0x02000000)) == 1
    first.close()
    second = open_tpm(rig.settings)
    assert opened(second).connection.handles(0x02000000) == []
    second.close()


def test_the_note_names_the_key_that_it_rests_on_and_the_pin_holds(rig: Rig, new_rig: Callable[[], Rig]) -> None:
    first = open_tpm(TpmSettings(tcti=rig.tcti, parameter_encryption=True))
    name = opened(first).root.name.hex()
    assert any(name in note and "srk_name" in note for note in first.describe().notes)
    first.close()
    pinned = TpmSettings(tcti=rig.tcti, parameter_encryption=True, srk_name=name)
    second = open_tpm(pinned)
    assert any("which is pinned" in note for note in second.describe().notes)
    second.close()
    with pytest.raises(HsmBridgeError) as refused:
        open_tpm(msgspec.structs.replace(pinned, tcti=new_rig().tcti))
    assert refused.value.status is Status.WRONG_TOKEN
    assert "srk_name" in str(refused.value)


@pytest.mark.parametrize("name", ["0", "xyz", "000b", "00" * 100])
def test_a_name_that_can_be_none_is_refused(name: str) -> None:
    with pytest.raises(HsmBridgeError) as refused:
        TpmSettings(tcti="swtpm", srk_name=name)
    assert refused.value.status is Status.INVALID_CONFIGURATION


def test_the_configuration_reaches_the_provider(rig: Rig) -> None:
    provider = open_provider(ProviderSpec(name="tpm", uri=f"tpm:{rig.tcti}", parameter_encryption=True))
    assert any("encrypted on the way" in note for note in provider.describe().notes)
    provider.close()
    with pytest.raises(HsmBridgeError) as refused:
        open_provider(ProviderSpec(name="tpm", uri=f"tpm:{rig.tcti}", srk_name="000b" + "00" * 32))
    assert refused.value.status is Status.WRONG_TOKEN
