"""python-pkcs11 as an application: MODULE. Says which tokens it could use. A process of its own: modules are global."""

import sys

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, SignMixin, VerifyMixin
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

SIGNING = MechanismFlag.SIGN | MechanismFlag.VERIFY
DIGEST = bytes(range(32))


def main(module: str) -> None:
    for token in pkcs11.lib(module).get_tokens():
        with token.open(rw=True) as session:
            for store in (False, True):
                try_pair(session, store=store)
            assert len(session.generate_random(512)) == 64
            if token.label != "tpm":  # which makes HMAC keys of a hash, and no secrets for any
                key = session.generate_key(KeyType.GENERIC_SECRET, 256, store=False, capabilities=SIGNING)
                assert isinstance(key, SignMixin)
                assert isinstance(key, VerifyMixin)
                mac = key.sign(b"data", mechanism=Mechanism.SHA256_HMAC)
                assert key.verify(b"data", mac, mechanism=Mechanism.SHA256_HMAC)
                assert not key.verify(b"date", mac, mechanism=Mechanism.SHA256_HMAC)
        print(token.label)


def try_pair(session: pkcs11.Session, *, store: bool) -> None:
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    parameters = session.create_domain_parameters(KeyType.EC, curve, local=True)
    public, private = parameters.generate_keypair(store=store, label="python", id=b"py", capabilities=SIGNING)
    assert isinstance(private, SignMixin)
    assert isinstance(public, VerifyMixin)
    signature = private.sign(DIGEST, mechanism=Mechanism.ECDSA)
    assert public.verify(DIGEST, signature, mechanism=Mechanism.ECDSA)
    assert not public.verify(DIGEST[::-1], signature, mechanism=Mechanism.ECDSA)
    elsewhere = load_der_public_key(encode_ec_public_key(public))
    assert isinstance(elsewhere, ec.EllipticCurvePublicKey)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    elsewhere.verify(encode_dss_signature(r, s), DIGEST, ec.ECDSA(Prehashed(SHA256())))
    assert private[Attribute.LOCAL]
    assert private[Attribute.SENSITIVE]
    assert len(list(session.get_objects({Attribute.LABEL: "python"}))) == 2
    public.destroy()
    private.destroy()
    assert not list(session.get_objects({Attribute.LABEL: "python"}))


if __name__ == "__main__":
    main(sys.argv[1])
