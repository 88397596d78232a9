"""The pipeline that every request passes: identity, rate, permission, audit."""
