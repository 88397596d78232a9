"""One suite for every provider: each row that a provider claims is run against the real thing and checked elsewhere.

`pinned_rows.toml` says what each must claim; `backends` starts the real thing; `rig` holds a provider and its keys
and passes every call and reply through the wire's codec; `independent` computes the same with another implementation.
"""
