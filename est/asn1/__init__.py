"""ASN.1 structures that asn1crypto does not bring: CsrAttrs, its templates, and CMC. Bytes in, values out."""
