"""The serializer: what is put comes back equal in value and type, or is refused."""

from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer, faithful

__all__ = ["FaithfulSerializer", "faithful"]
