"""Slots, key versions, tenants and audit records in SQLite or PostgreSQL."""
