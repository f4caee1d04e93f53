"""What libpq says becomes one sentence."""

from __future__ import annotations

import psycopg

from surgetank.database.refusals import refused_connection

LIBPQ = (
    'connection to server at "127.0.0.1", port 1 failed: Connection refused\n'
    "\tIs the server running on that host and accepting TCP/IP connections?\n"
)


def test_a_refused_connection_is_told_in_one_sentence_without_a_question():
    told = refused_connection(psycopg.OperationalError(LIBPQ), "postgresql://h/d").what
    assert told == (
        "PostgreSQL at postgresql://h/d can't be reached: "
        'connection to server at "127.0.0.1", port 1 failed: Connection refused.'
    )
