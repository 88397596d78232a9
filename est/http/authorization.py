"""HTTP authentication: Basic (RFC 7617), Digest with SHA-256 and MD5 (RFC 7616), and a bearer token.

The strongest scheme that both sides have is used. Answering is up to `est.client`, which does so only when the
server is authenticated and authorised.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from est import refusals


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name, which may be empty, and a password; or a bearer token."""

    user: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, ...)"


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate header; the scheme and names of parameters in lower case."""

    scheme: str
    parameters: dict[str, str]


_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))')
_SCHEME = re.compile(rf"({_WORD})(?:\s+|\s*$|\s*,)")
_DIGESTS = {"SHA-256": "sha256", "SHA-512-256": "sha512_256", "MD5": "md5"}


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges of a WWW-Authenticate header; what cannot be read is skipped."""
    text, position = header[:4096], 0
    found: list[Challenge] = []
    while position < len(text):
        if text[position] in " ,\t":
            position += 1
            continue
        parameter = _PARAMETER.match(text, position)
        if parameter and found:
            value = re.sub(r"\\(.)", r"\1", parameter[2]) if parameter[2] is not None else parameter[3]
            found[-1].parameters[parameter[1].lower()] = value
            position = parameter.end()
            continue
        scheme = _SCHEME.match(text, position)
        if scheme is None:
            break
        found.append(Challenge(scheme[1].lower(), {}))
        position = scheme.end(1)
    return tuple(found)


def answer(challenges: Iterable[Challenge], credentials: Credentials, method: str, target: str, count: int = 1) -> str:
    """The Authorization header for the strongest challenge.

    Args:
        count: how often this nonce has been answered, this time included.

    Raises:
        AccessError: the server wants a scheme that est does not have, or credentials that were not given.
    """
    listed = list(challenges)
    if credentials.token:
        if any(one.scheme == "bearer" for one in listed):
            return f"Bearer {credentials.token}"
        raise refusals.denied("The server does not take a bearer token; give a user name and password.")
    if not (credentials.user or credentials.password):
        raise refusals.denied("The server asks for a user name and password; none were given.")
    for name, digest in _DIGESTS.items():
        for one in listed:
            if one.scheme == "digest" and one.parameters.get("algorithm", "MD5").upper() == name:
                return _digest_answer(one, digest, credentials, method, target, count)
    if any(one.scheme == "basic" for one in listed):
        pair = f"{credentials.user}:{credentials.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"
    schemes = ", ".join(sorted({one.scheme for one in listed})) or "nothing"
    raise refusals.denied(f"The server offers authentication by {schemes}; est does Basic, Digest and Bearer.")


def _hash(digest: str, *parts: str) -> str:
    # MD5 is what many servers of RFC 2617 offer; over TLS, to an authenticated server, it hides the password from
    # nobody who could not read it anyway.
    return hashlib.new(digest, ":".join(parts).encode(), usedforsecurity=False).hexdigest()


def _digest_answer(
    challenge: Challenge, digest: str, credentials: Credentials, method: str, target: str, count: int
) -> str:
    realm, nonce = challenge.parameters.get("realm", ""), challenge.parameters.get("nonce", "")
    secret = _hash(digest, credentials.user, realm, credentials.password)
    offered = [one.strip() for one in challenge.parameters.get("qop", "").split(",")]
    fields = {"username": credentials.user, "realm": realm, "nonce": nonce, "uri": target}
    request = _hash(digest, method, target)
    extra = ""
    if "auth" in offered:
        cnonce = secrets.token_hex(16)
        response = _hash(digest, secret, nonce, f"{count:08x}", cnonce, "auth", request)
        extra = f', qop=auth, nc={count:08x}, cnonce="{cnonce}"'
    elif offered == [""]:
        response = _hash(digest, secret, nonce, request)
    else:
        raise refusals.denied("The server wants Digest with integrity (auth-int), which est does not do.")
    if "opaque" in challenge.parameters:
        fields["opaque"] = challenge.parameters["opaque"]
    quoted = ", ".join(f'{name}="{_quoted(value)}"' for name, value in fields.items())
    algorithm = challenge.parameters.get("algorithm", "MD5")
    return f'Digest {quoted}, response="{response}", algorithm={algorithm}{extra}'


def _quoted(text: str) -> str:
    if any(one in text for one in "\r\n\0"):
        raise refusals.unwanted("A user name or realm has no line breaks.")
    return text.replace("\\", "\\\\").replace('"', '\\"')


def check_answer(
    header: str, user_secret: dict[str, str], realm: str, nonces: set[str], method: str, target: str
) -> str:
    """The user that an Authorization header of Basic or Digest (SHA-256) proves, or "" for none.

    Args:
        user_secret: passwords by user.
        nonces: those given out; the one that was used is taken away.
    """
    challenges = parse_challenges(header) if header.lower().startswith("digest") else ()
    if challenges:
        return _check_digest(challenges[0].parameters, user_secret, realm, nonces, method, target)
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return ""
    # The comparison takes place for unknown users too, so that time does not tell who exists.
    known = user_secret.get(user)
    right = hmac.compare_digest(password.encode(), (known if known is not None else secrets.token_hex()).encode())
    return (user or "-") if colon and known is not None and right else ""


def _check_digest(
    sent: dict[str, str], user_secret: dict[str, str], realm: str, nonces: set[str], method: str, target: str
) -> str:
    nonce, user = sent.get("nonce", ""), sent.get("username", "")
    if nonce not in nonces or sent.get("uri") != target or sent.get("realm") != realm or sent.get("qop") != "auth":
        return ""
    nonces.discard(nonce)
    known = user_secret.get(user)
    secret = _hash("sha256", user, realm, known if known is not None else secrets.token_hex())
    parts = (secret, nonce, sent.get("nc", ""), sent.get("cnonce", ""), "auth", _hash("sha256", method, target))
    right = hmac.compare_digest(_hash("sha256", *parts).encode(), sent.get("response", "").encode())
    return (user or "-") if right and known is not None else ""
