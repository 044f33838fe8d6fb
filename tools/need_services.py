"""Fail, with the command that helps, unless PostgreSQL and Redis answer. Arguments: their URLs."""

from __future__ import annotations

import sys

import psycopg
import redis

START_POSTGRESQL = """\
  Debian:  apt-get install postgresql && pg_ctlcluster $(ls /etc/postgresql | tail -1) main start
  Docker:  docker run -d -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust postgres:16
Another server: make test-services TEST_DATABASE_URL=postgres://user:password@host:5432/postgres"""
START_REDIS = """\
  Debian:  apt-get install redis-server && redis-server --daemonize yes
  Docker:  docker run -d -p 6379:6379 redis:7
Another server: make test-services TEST_REDIS_URL=redis://host:6379/5"""


def faults(database_url: str, redis_url: str) -> list[str]:
    found = []
    try:
        psycopg.connect(database_url.replace("postgres://", "postgresql://", 1), connect_timeout=5).close()
    except psycopg.OperationalError as error:
        found.append(f"PostgreSQL does not answer: {str(error).strip()}\nStart it:\n{START_POSTGRESQL}")
    try:
        redis.Redis.from_url(redis_url, socket_connect_timeout=5, socket_timeout=5).ping()
    except (redis.RedisError, OSError) as error:
        found.append(f"Redis does not answer: {error}\nStart it:\n{START_REDIS}")
    return found


if __name__ == "__main__":
    if found := faults(*sys.argv[1:3]):
        sys.exit("\n\n".join([*found, "Or let .ci/run start both for the length of a whole run."]))
