"""Live queries of tables: the rows now, and then every change."""
