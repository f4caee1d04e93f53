"""PostgreSQL: connections, the embedded server, migrations, named queries."""
