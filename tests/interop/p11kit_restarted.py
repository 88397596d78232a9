"""An application that signs all the time while the daemon is restarted: MODULE. Says what it saw."""

import sys

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, SignMixin
from pkcs11.util.ec import encode_named_curve_parameters


def main(module: str) -> None:
    library = pkcs11.lib(module)
    # Not closed: the connection that it could be closed on will be gone.
    session = library.get_token(token_label="software").open(rw=True)
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    parameters = session.create_domain_parameters(KeyType.EC, curve, local=True)
    _, private = parameters.generate_keypair(store=True, label="restart", capabilities=MechanismFlag.SIGN)
    assert isinstance(private, SignMixin)
    print("signing", flush=True)
    for word in ("lost", "still"):
        try:
            while True:
                private.sign(b"d" * 32, mechanism=Mechanism.ECDSA)
        except pkcs11.PKCS11Error as lost:
            print(word, type(lost).__name__, flush=True)
    sys.stdin.readline()
    library.reinitialize()
    with library.get_token(token_label="software").open() as again:
        key = again.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="restart")
        assert isinstance(key, SignMixin)
        key.sign(b"d" * 32, mechanism=Mechanism.ECDSA)
        print("again", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
