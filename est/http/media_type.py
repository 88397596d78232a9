"""Media types: compared without regard to case, parameters read, unknown ones ignored (RFC 9110 section 8.3)."""

from dataclasses import dataclass, field
from email.message import Message

PKCS10 = "application/pkcs10"
PKCS7 = "application/pkcs7-mime"
PKCS8 = "application/pkcs8"
CSRATTRS = "application/csrattrs"
MULTIPART = "multipart/mixed"

CERTS_ONLY = f"{PKCS7}; smime-type=certs-only"
CMC_REQUEST = f"{PKCS7}; smime-type=CMC-request"
CMC_RESPONSE = f"{PKCS7}; smime-type=CMC-response"
SERVER_GENERATED_KEY = f"{PKCS7}; smime-type=server-generated-key"


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type; name and parameter names in lower case."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def smime_type(self) -> str:
        """The smime-type parameter in lower case, or ""."""
        return self.parameters.get("smime-type", "").lower()


def parse_media_type(header: str) -> MediaType:
    """Read a Content-Type; what cannot be read is a type that nobody asks for."""
    message = Message()
    try:
        message["content-type"] = "".join(one for one in header[:1024] if one.isprintable())
        listed = message.get_params(failobj=[], header="content-type")
    except (ValueError, IndexError, TypeError, LookupError):
        return MediaType("")
    if not listed:
        return MediaType("")
    parameters = {name.lower(): value for name, value in listed[1:] if isinstance(value, str)}
    return MediaType(listed[0][0].strip().lower(), parameters)
