"""The settings, one frozen struct a section. The reference in docs/reference/configuration.md is generated from these.

Times are in seconds. A path that is not absolute starts at the folder of the configuration file. No setting holds
a secret: they name where one is.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from hsmbridge.client.socket_path import SOCKET_NAME, SOCKET_VARIABLE, runtime_directory
from hsmbridge.config.places import default_state_directory
from hsmbridge.config.values import ByteSize, FileMode
from hsmbridge.providers.registry import MAX_THREADS, Isolation

DEFAULT_ISOLATION: Final = {
    "software": Isolation.THREAD,
    "oqs": Isolation.THREAD,
    "pkcs11": Isolation.PROCESS,
    "tpm": Isolation.PROCESS,
}
"""Where a provider of each URI scheme runs unless its section says otherwise."""


P11KIT_SOCKET_NAME: Final = "p11kit.sock"
SSH_AGENT_SOCKET_NAME: Final = "ssh-agent.sock"

Descriptor = Annotated[int, Meta(ge=3)]
"""A file descriptor that is none of the standard ones."""


class _Section(Struct, frozen=True, kw_only=True):
    pass


class DaemonSection(_Section, frozen=True, kw_only=True):
    """The daemon: where it listens, how many processes it has, what it takes."""

    socket: Annotated[
        Path | None,
        Meta(description=f"The unix socket for clients. Unset: ${SOCKET_VARIABLE}, or {SOCKET_NAME} in `runtime_dir`."),
    ] = None
    socket_mode: Annotated[
        FileMode,
        Meta(
            description="Who may connect. Every caller is known by its uid and sees only what access lists give it,"
            ' so "0666" serves all users of the machine.'
        ),
    ] = FileMode(0o600)
    runtime_dir: Annotated[
        Path | None,
        Meta(
            description="Sockets and locks. Unset: /run/hsmbridge for root, otherwise hsmbridge in $XDG_RUNTIME_DIR,"
            " or /tmp/hsmbridge-UID."
        ),
    ] = None
    state_dir: Annotated[
        Path | None,
        Meta(
            description="The store. Unset: /var/lib/hsmbridge for root, otherwise hsmbridge in $XDG_STATE_HOME"
            " (~/.local/state)."
        ),
    ] = None
    workers: Annotated[int, Meta(ge=1, le=256, description="Daemon processes on the one socket.")] = 1
    cpu_affinity: Annotated[
        Literal["none", "spread"],
        Meta(
            description='On which processors the processes run. "none" leaves it to the scheduler; "spread" gives each'
            " worker one, and the providers' processes those that are left."
        ),
    ] = "none"
    max_frame: Annotated[
        ByteSize, Meta(description="The most data in one call, from 64KiB to 1GiB; every worker may hold several.")
    ] = ByteSize(16 << 20)
    max_held: Annotated[
        ByteSize,
        Meta(
            description="What one context holds back at most, from 64KiB to 1GiB: what an AEAD decrypts until its tag"
            " was verified, and whatever a provider takes only at once. The contexts of one connection hold back four"
            " times as much together."
        ),
    ] = ByteSize(64 << 20)
    max_connections: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Connections that one worker serves at a time.")
    ] = 1024
    max_connections_per_principal: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Of those, how many one caller may have.")
    ] = 256
    max_in_flight: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="Requests of one connection that are under way at a time; further ones wait in the socket.",
        ),
    ] = 128
    max_keys: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Ephemeral keys that one connection may have alive; each takes some KiB of memory here and at"
            " its provider.",
        ),
    ] = 1024
    max_contexts: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Contexts that one connection may have open.")
    ] = 1024
    max_keys_per_principal: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000_000,
            description="Ephemeral keys that all connections of one caller to one worker may have.",
        ),
    ] = 16_384
    max_bytes_per_principal: Annotated[
        ByteSize,
        Meta(
            description="What one worker holds for one caller at a time, at least twice `max_frame`: requests of"
            " the native API that come in or are under way, data that contexts hold back, shared memory, nonces that"
            " the caller chose for ephemeral keys. What would be more is refused (`TOO_MANY_RESOURCES`). Requests of"
            " 4 KiB and less do not count."
        ),
    ] = ByteSize(1 << 30)
    default_timeout: Annotated[
        float, Meta(ge=0.001, le=86_400, description="Deadline that the daemon tells clients to use by default.")
    ] = 30.0
    drain_timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long a stopping worker finishes what is under way, and how long a provider's process"
            " waits for a new supervisor.",
        ),
    ] = 10.0
    durability: Annotated[
        Literal["power-loss", "process-crash"],
        Meta(
            description="What nonce leases and remembered nonces survive. Slots and keys survive a loss of power"
            " whatever this says."
        ),
    ] = "power-loss"


class StoreSection(_Section, frozen=True, kw_only=True):
    """The store of slots, and what protects its master key."""

    url: Annotated[str | None, Meta(description="SQLAlchemy URL. Unset: store.sqlite in `state_dir` of [daemon].")] = (
        None
    )
    protector: Annotated[
        Literal["keyfile", "passphrase", "tpm"],
        Meta(
            description="How the master key is kept: under a key file that only its owner reads, under a passphrase,"
            " or sealed in a TPM."
        ),
    ] = "keyfile"
    key_file: Annotated[
        Path | None,
        Meta(description="The key file; made when a new store is. Unset: master.key in `state_dir` of [daemon]."),
    ] = None
    passphrase_file: Annotated[
        Path | None, Meta(description="A file that holds the passphrase; only its owner may read it.")
    ] = None
    passphrase_fd: Annotated[
        Descriptor | None, Meta(description="A file descriptor, inherited by `hsmbridge serve`, to read it from.")
    ] = None
    passphrase_credential: Annotated[
        str | None, Meta(description="The name of a systemd credential (LoadCredential=) that is the passphrase.")
    ] = None
    tcti: Annotated[
        str | None, Meta(description='With protector = "tpm": how to reach the TPM, such as "device:/dev/tpmrm0".')
    ] = None
    pcrs: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=23)], ...],
        Meta(
            description='With protector = "tpm": platform configuration registers (SHA-256) that must be what they'
            " were when the store was made; none binds it to the TPM alone."
        ),
    ] = ()


class ProviderSection(_Section, frozen=True, kw_only=True):
    """A back end that holds keys. NAME is what slots call it."""

    uri: Annotated[
        str,
        Meta(
            description='What and where: "software:", a PKCS#11 URI with its module'
            ' ("pkcs11:token=web?module-path=/usr/lib/softhsm/libsofthsm2.so"), "tpm:" and a TCTI'
            ' ("tpm:device:/dev/tpmrm0"), or "oqs:" and the folder of liboqs where that is not among the libraries of'
            ' the system ("oqs:/opt/liboqs").'
        ),
    ]
    isolation: Annotated[
        Isolation | None,
        Meta(
            description="In a process of its own, or on threads of every worker. Unset: process for PKCS#11 and TPM,"
            " thread for software and oqs, which know no other."
        ),
    ] = None
    threads: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_THREADS,
            description="Calls that one worker may have under way in it. A token that computes in the module itself, as"
            " SoftHSM does, needs no more than half of the processors; one over a network takes many.",
        ),
    ] = 4
    sessions: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="Sessions on a token that calls share; each connection with ephemeral keys takes one more.",
        ),
    ] = 8
    module_arguments: Annotated[
        str,
        Meta(
            description="What a PKCS#11 module wants to be told when it is initialised, such as where NSS has its"
            " database. No place for secrets."
        ),
    ] = ""
    srk_handle: Annotated[
        Annotated[int, Meta(ge=0x81000000, le=0x817FFFFF)] | None,
        Meta(description="Persistent handle of a TPM's storage root key. Unset: 0x81000001."),
    ] = None
    srk_name: Annotated[
        str,
        Meta(
            description="The name of that key in hexadecimal, which pins the TPM; `hsmbridge providers` shows it with"
            " parameter_encryption. Unset: any."
        ),
    ] = ""
    parameter_encryption: Annotated[
        bool, Meta(description="Encrypt what is secret in a TPM's commands and answers on the way there and back.")
    ] = False
    pin_file: Annotated[
        Path | None, Meta(description="A file that holds the token's user PIN; only its owner may read it.")
    ] = None
    pin_fd: Annotated[
        Descriptor | None,
        Meta(description="A file descriptor, inherited by `hsmbridge serve`, to read the PIN from."),
    ] = None
    pin_credential: Annotated[
        str | None, Meta(description="The name of a systemd credential (LoadCredential=) that is the PIN.")
    ] = None
    environment: Annotated[
        dict[str, str],
        Meta(
            description="Variables that the module reads, such as SOFTHSM2_CONF; set in the provider's own process"
            " only. No place for secrets."
        ),
    ] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        """What stands before the URI's first colon, in lower case."""
        return self.uri.partition(":")[0].lower()


class NamespaceSection(_Section, frozen=True, kw_only=True):
    """A namespace for slots beside the callers' own (uid-N)."""

    creators: Annotated[
        tuple[str, ...], Meta(description='Who may make slots in it, as principals: ["uid:1000"].')
    ] = ()


class LogSection(_Section, frozen=True, kw_only=True):
    """The log: one JSON object a line, on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe messages to write.")
    ] = "info"
    audit_uses: Annotated[
        bool, Meta(description="Write a line for every use of a key, not only for changes and refusals.")
    ] = False


class P11KitSection(_Section, frozen=True, kw_only=True):
    """PKCS#11 for every application, through p11-kit's own client module. Without this section there is none."""

    socket: Annotated[
        Path | None, Meta(description="The unix socket for p11-kit clients. Unset: p11kit.sock in `runtime_dir`.")
    ] = None
    socket_mode: Annotated[
        FileMode, Meta(description="Who may connect. Every application is known by its uid, and sees its own slots.")
    ] = FileMode(0o600)
    tokens: Annotated[
        Literal["providers", "merged"],
        Meta(description="What applications see: a token for each provider, or one for all of them."),
    ] = "providers"
    templates: Annotated[
        Literal["attenuate", "refuse"],
        Meta(
            description="New keys whose template asks for more than one key may do: with less than that, and the"
            " attributes say so, or not at all (CKR_TEMPLATE_INCONSISTENT)."
        ),
    ] = "attenuate"
    login: Annotated[
        Literal["none", "pin", "own"],
        Meta(
            description="The kernel says who an application is. With none, no login is needed and any PIN is taken;"
            " with pin, private keys are out of reach before C_Login with the PIN in `pin_file`; with own, before"
            " C_Login with the PIN that each user sets for each token, by C_InitToken and C_InitPIN."
        ),
    ] = "none"
    pin_file: Annotated[Path | None, Meta(description="A file that holds that PIN; only its owner may read it.")] = None
    trust_stores: Annotated[
        tuple[str, ...],
        Meta(
            description="Trust stores, as NAMESPACE/NAME, whose anchors are on every token as trusted certificates, for"
            " those who may see the store."
        ),
    ] = ()


class SshAgentSection(_Section, frozen=True, kw_only=True):
    """Slots as the keys of an SSH agent, for `ssh`, `git` and all that ask one. Without this section there is none."""

    socket: Annotated[
        Path | None,
        Meta(description=f"The unix socket for SSH_AUTH_SOCK. Unset: {SSH_AGENT_SOCKET_NAME} in `runtime_dir`."),
    ] = None
    socket_mode: Annotated[
        FileMode, Meta(description="Who may connect. Every caller is known by its uid, and uses its own slots.")
    ] = FileMode(0o600)
    slots: Annotated[
        tuple[str, ...],
        Meta(
            description="Which slots are offered: names with their namespace, in which * stands for anything, such as"
            ' "uid-0/ssh-*". None is all that a caller may sign with; servers end a log-in after a few keys.'
        ),
    ] = ()
    forwarding: Annotated[
        Literal["allow", "refuse"],
        Meta(description="Whether a connection that `ssh -A` forwards to another machine sees keys and may sign."),
    ] = "allow"


class FrontEnds(_Section, frozen=True, kw_only=True):
    """Doors beside the native socket, each in a section of its own."""

    p11kit: P11KitSection | None = None
    ssh_agent: SshAgentSection | None = None


class Config(_Section, frozen=True, kw_only=True):
    """Everything that the daemon is told, checked."""

    daemon: DaemonSection = DaemonSection()
    store: StoreSection = StoreSection()
    providers: dict[str, ProviderSection] = field(default_factory=dict)
    namespaces: dict[str, NamespaceSection] = field(default_factory=dict)
    log: LogSection = LogSection()
    frontends: FrontEnds = FrontEnds()

    @property
    def p11kit_socket(self) -> Path:
        """Where p11-kit clients connect, if they can."""
        section = self.frontends.p11kit
        return (section.socket if section is not None else None) or self.runtime_dir / P11KIT_SOCKET_NAME

    @property
    def ssh_agent_socket(self) -> Path:
        """Where the clients of the SSH agent connect, if they can."""
        section = self.frontends.ssh_agent
        return (section.socket if section is not None else None) or self.runtime_dir / SSH_AGENT_SOCKET_NAME

    @property
    def runtime_dir(self) -> Path:
        """Where sockets and locks are."""
        return self.daemon.runtime_dir or runtime_directory()

    @property
    def state_dir(self) -> Path:
        """Where the store is by default."""
        return self.daemon.state_dir or default_state_directory()

    @property
    def socket(self) -> Path:
        """Where clients connect."""
        return self.daemon.socket or self.runtime_dir / SOCKET_NAME

    @property
    def lock_file(self) -> Path:
        """What a running supervisor holds locked."""
        return self.runtime_dir / "supervisor.lock"

    @property
    def providers_dir(self) -> Path:
        """Where the processes of providers have their sockets and locks."""
        return self.runtime_dir / "providers"

    @property
    def store_url(self) -> str:
        """Where the store is."""
        return self.store.url or f"sqlite:///{self.state_dir / 'store.sqlite'}"

    @property
    def key_file(self) -> Path:
        """The key file of the master key, where that is what protects it."""
        return self.store.key_file or self.state_dir / "master.key"

    def isolation(self, provider: str) -> Isolation:
        """Where a provider runs."""
        section = self.providers[provider]
        return section.isolation or DEFAULT_ISOLATION[section.scheme]
