"""The Agent Server API: what its routes share."""
