"""The lab: a SoftHSM token, a swtpm and a daemon in a directory of their own, to try things and to test."""
