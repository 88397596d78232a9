"""The PKCS#11 front end: what stock p11-kit clients speak, so that any PKCS#11 application uses our slots."""
