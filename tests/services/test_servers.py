"""The servers that a test has for itself: they end, they come back, and what was committed is still there."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import redis

from tests.servers import PostgresServer, ServerFailed, own_postgres, own_redis

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with own_postgres() as server:
        yield server


def write(server: PostgresServer, table: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {table} AS SELECT 1 AS n")


class TestOwnPostgres:
    @pytest.mark.parametrize("immediately", [False, True])
    def test_keeps_what_was_committed_over_a_restart(
        self, postgres: PostgresServer, immediately: bool
    ) -> None:
        write(postgres, f"kept_{int(immediately)}")
        with psycopg.connect(postgres.dsn()) as connection:
            postgres.restart(immediately=immediately)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")

        with psycopg.connect(postgres.dsn()) as connection:
            assert connection.execute(f"SELECT n FROM kept_{int(immediately)}").fetchone() == (1,)

    def test_answers_nobody_while_it_is_stopped(self, postgres: PostgresServer) -> None:
        postgres.stop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(postgres.dsn(), connect_timeout=2)
        postgres.start()

    def test_makes_databases(self, postgres: PostgresServer) -> None:
        url = postgres.create_database("one_more").replace("postgres://", "postgresql://", 1)
        with psycopg.connect(url) as connection:
            assert connection.info.dbname == "one_more"

    def test_takes_its_folder_with_it(self) -> None:
        with own_postgres(fsync=True) as server:
            directory = server.directory
            assert (directory / "data" / "PG_VERSION").exists()
        assert not server.is_running
        assert not directory.exists()

    def test_says_why_it_does_not_start(self, postgres: PostgresServer) -> None:
        with own_postgres() as second:
            second.stop()
            second.port = postgres.port
            with pytest.raises(ServerFailed, match="Address already in use"):
                second.start()


class TestOwnRedis:
    def test_forgets_what_it_held_when_it_is_killed(self) -> None:
        with own_redis() as server:
            redis.Redis.from_url(server.url).set("a", "1")
            server.restart()
            assert redis.Redis.from_url(server.url).get("a") is None
        assert not server.is_running

    def test_keeps_it_when_it_is_durable(self) -> None:
        with own_redis(durable=True) as server:
            redis.Redis.from_url(server.url).set("a", "1")
            server.restart()
            assert redis.Redis.from_url(server.url).get("a") == b"1"

    def test_holds_its_clients_while_it_is_frozen(self) -> None:
        with own_redis() as server:
            server.freeze()
            with pytest.raises(redis.TimeoutError):
                redis.Redis.from_url(server.url, socket_timeout=0.2).ping()
            server.thaw()
            assert redis.Redis.from_url(server.url, socket_timeout=5).ping()
