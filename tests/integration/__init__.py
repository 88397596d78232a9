"""The real daemon, SoftHSM and swtpm."""
