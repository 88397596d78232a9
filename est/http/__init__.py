"""HTTP as EST uses it (RFC 7030 section 3.2, RFC 8951): values in, values out; only `exchange` touches a socket."""
