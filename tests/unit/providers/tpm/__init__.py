"""The TPM provider over real simulators."""
