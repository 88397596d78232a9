"""A provider in a process of its own: one owner for a token or TPM, and a crash that takes nobody along."""
