"""The same algorithms by other hands, to check providers against.

`openssl` is Debian's command line tool (OpenSSL 3.0; the software provider brings an OpenSSL of its own, and SoftHSM
and swtpm call the library in other ways). `hashlib` and `hmac` are Python's. For post-quantum algorithms, which
OpenSSL 3.0 lacks, it is PyPI's pqcrypto (RustCrypto). GCM and CCM, which the tool does not offer, are put together
from its block cipher by the text of SP 800-38D and SP 800-38C; Argon2id, X-Wing and HPKE from their parts by that of
RFC 9106, the X-Wing draft and RFC 9180.
"""
