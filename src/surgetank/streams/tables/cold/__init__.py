"""The cold rows of tables: Parquet files, and their manifest in PostgreSQL."""
