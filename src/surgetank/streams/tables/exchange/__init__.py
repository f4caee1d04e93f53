"""Tables and files of others: rows go out as Parquet, CSV, lines of JSON or Delta, and come in from files."""
