"""Subject alternative names compared one by one, each by its DER: order does not count, form does."""

from asn1crypto import x509

from est.asn1.der import read


def alternative_names_of(der: bytes) -> frozenset[bytes]:
    """The names in a subject alternative name extension, each as DER.

    Raises:
        WireError: it cannot be read.
    """

    def take() -> frozenset[bytes]:
        return frozenset(bytes(one.dump()) for one in x509.GeneralNames.load(der, strict=True))

    return read("alternative names", der, take)
