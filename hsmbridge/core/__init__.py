"""Pure values: the tables and types that every other part of hsmbridge reads. No I/O, no threads, no providers."""
