"""The PKCS#11 provider against real SoftHSM tokens."""
