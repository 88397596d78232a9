"""Who may use which key for what, and what becomes of keys."""
