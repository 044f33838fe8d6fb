"""`python -m bench.queue_process ACCOUNT WAITING BOOKS`: sets Django up, then works as bench.queue_rounds."""

from __future__ import annotations

import json
import os
import sys

import django

from bench.scenarios import single_strategy


def main(account: int, waiting: int, books: int) -> None:
    django.setup()
    from bench.queue_rounds import Rounds, serve

    token = json.loads(os.environ["BENCH_TOKENS"])[single_strategy(account)]
    serve(Rounds(waiting=waiting, books=books, token=token))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
