"""User tables: rows that are hot in a file beside the buffer, then in Parquet, and SQL over both."""
