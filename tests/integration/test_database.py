import psycopg, time


def test_a(fresh_database):
    with psycopg.connect(fresh_database) as c:
        assert c.execute("show fsync").fetchone() == ("on",)


def test_b(private_postgres):
    t = time.time()
    pid = private_postgres.pid
    private_postgres.kill()
    assert private_postgres.pid is None
    print("kill", time.time() - t)
    t = time.time()
    private_postgres.start()
    print("start", time.time() - t)
    assert private_postgres.pid != pid
    t = time.time()
    private_postgres.stop()
    print("stop", time.time() - t)


def test_c(pgbouncer):
    with psycopg.connect(pgbouncer) as c:
        assert c.execute("show fsync").fetchone() == ("on",)
