"""The catalogue of tables: in PostgreSQL, and mirrored beside the buffer."""
