"""Webhooks: what is sent to other servers when a run ends."""
