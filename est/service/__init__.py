"""Certificates that renew themselves: when, with what key, and how a crash at any instant harms nothing."""
