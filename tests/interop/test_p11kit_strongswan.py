"""strongSwan's PKCS#11 plugin with keys of ours: `pki` makes certificates and requests, which OpenSSL verifies.

The plugin logs in to use a private key, and asks for a PIN at the terminal although no token wants one.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.p11kit_client import MODULE, Service, service

__all__ = ["service"]

_SETTINGS = f"""
pki {{
  load = pkcs11 openssl pem pkcs1 x509 random nonce
}}
libstrongswan {{
  plugins {{
    pkcs11 {{
      modules {{
        hsmbridge {{
          path = {MODULE}
        }}
      }}
    }}
  }}
}}
"""


@pytest.mark.parametrize(("token", "key_type"), [("softhsm", "EC:prime256v1"), ("tpm", "rsa:2048")])
def test_strongswan_makes_certificates_with_keys_of_ours(
    service: Service, token: str, key_type: str, tmp_path: Path
) -> None:
    service.tool("--token-label", token, "-k", "--key-type", key_type, "--label", "vpn", "--id", "0b01", cwd=tmp_path)
    (tmp_path / "strongswan.conf").write_text(_SETTINGS)

    def pki(*arguments: str) -> str:
        said = service.run(
            *(sys.executable, str(Path(__file__).with_name("p11kit_typed.py")), "pki", *arguments),
            *("--type", "priv", "--keyid", "0b01", "--dn", "CN=vpn.example", "--outform", "pem"),
            cwd=tmp_path,
            STRONGSWAN_CONF=str(tmp_path / "strongswan.conf"),
        )
        return said[said.index("-----BEGIN") :]

    (tmp_path / "vpn.pem").write_text(pki("--self", "--san", "vpn.example", "--lifetime", "3"))
    (tmp_path / "vpn.csr").write_text(pki("--req"))
    for command in (("verify", "-CAfile", "vpn.pem", "vpn.pem"), ("req", "-in", "vpn.csr", "-verify", "-noout")):
        subprocess.run(["openssl", *command], cwd=tmp_path, check=True, capture_output=True, timeout=30)
    service.tool("--token-label", token, "-b", "-y", "privkey", "--id", "0b01", cwd=tmp_path)
