"""The lab: a SoftHSM token, a swtpm and a daemon in a directory of their own, for trying out and for tests."""
