"""TPM 2.0 chips and simulators through tpm2-pytss (TCG ESAPI): one owner, wrapped keys, no limit by NV memory."""

from hsmbridge.providers.tpm.protector import TpmProtector
from hsmbridge.providers.tpm.provider import TpmProvider, open_tpm
from hsmbridge.providers.tpm.references import tss2_private_key_pem
from hsmbridge.providers.tpm.settings import DEFAULT_SRK_HANDLE, TpmSettings

__all__ = ["DEFAULT_SRK_HANDLE", "TpmProtector", "TpmProvider", "TpmSettings", "open_tpm", "tss2_private_key_pem"]
