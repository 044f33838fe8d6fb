from __future__ import annotations

import io
import json
import logging
import logging.config
from collections.abc import Iterator

import pytest
import structlog
from django.test import Client

from tradehub import logs

SECRET = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log as production writes it, of a logger of our own."""
    stream = io.StringIO()
    config = logs.configure(level="INFO", as_json=True)
    formatter = config["formatters"]["line"]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=formatter["foreign_pre_chain"], processors=formatter["processors"]
        )
    )
    logger = logging.getLogger("tradehub.under_test")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield stream
    logger.removeHandler(handler)


def written(stream: io.StringIO) -> dict[str, object]:
    line: dict[str, object] = json.loads(stream.getvalue().splitlines()[-1])
    return line


class TestConfigure:
    def test_writes_one_json_object_per_event_for_both_kinds_of_logger(self, lines: io.StringIO) -> None:
        structlog.get_logger("tradehub.under_test").info("Order placed", symbol="BTC/USDT")
        logging.getLogger("tradehub.under_test").warning("Took %d ms", 7)

        first, second = (json.loads(line) for line in lines.getvalue().splitlines())
        assert (first["event"], first["symbol"], first["level"]) == ("Order placed", "BTC/USDT", "info")
        assert (second["event"], second["level"], second["logger"]) == (
            "Took 7 ms",
            "warning",
            "tradehub.under_test",
        )

    @pytest.mark.parametrize(
        ("level", "source", "stays"),
        [
            (logging.INFO, "cluster.py", True),
            (logging.INFO, "worker.py", False),
            (logging.INFO, "tasks.py", False),
            (logging.ERROR, "worker.py", True),
        ],
    )
    def test_leaves_out_what_each_background_job_says_of_itself(
        self, lines: io.StringIO, level: int, source: str, stays: bool
    ) -> None:
        """The filter stands at the logger itself, by the project's own configuration."""
        logger = logging.getLogger("django-q")
        handler = logging.StreamHandler(lines)
        logger.addHandler(handler)
        try:
            logger.handle(logger.makeRecord("django-q", level, source, 1, "Something", (), None))
        finally:
            logger.removeHandler(handler)

        assert ("Something" in lines.getvalue()) is stays

    def test_carries_the_correlation_id_into_the_line(self, lines: io.StringIO) -> None:
        with structlog.contextvars.bound_contextvars(correlation_id="abc"):
            logging.getLogger("tradehub.under_test").info("Sent")

        assert written(lines)["correlation_id"] == "abc"


class TestMaskSecrets:
    @pytest.mark.parametrize(
        "text",
        [
            f"GET /fapi/v1/order?symbol=BTCUSDT&signature={SECRET}&timestamp=1",
            f'{{"group_name": "test1", "token": "{SECRET}"}}',
            f"{{'api_secret': '{SECRET}'}}",
            f"X-MBX-APIKEY: {SECRET}",
            f"Authorization: Bearer {SECRET}",
            f"postgres://tradehub:{SECRET}@db.internal:5432/tradehub",
            f"wss://stream.example/ws?listenKey={SECRET}",
            "https://api.telegram.org/bot123456789:AAEhBOweik6ad9r_QXMENQjcrGbqCr4K-bc/sendMessage",
        ],
    )
    def test_strikes_secrets_out_of_text(self, lines: io.StringIO, text: str) -> None:
        logging.getLogger("tradehub.under_test").info("Refused: %s", text)

        assert SECRET not in lines.getvalue()
        assert "AAEhBOweik6ad9r" not in lines.getvalue()
        assert logs.MASK in lines.getvalue()

    def test_strikes_secrets_out_of_fields_however_deep(self, lines: io.StringIO) -> None:
        structlog.get_logger("tradehub.under_test").info(
            "Sent", params={"symbol": "BTCUSDT", "signature": SECRET}, headers=[{"X-MBX-APIKEY": SECRET}]
        )
        logging.getLogger("tradehub.under_test").info("Sent", extra={"webhook_token": SECRET})

        assert SECRET not in lines.getvalue()
        assert json.loads(lines.getvalue().splitlines()[0])["params"] == {
            "symbol": "BTCUSDT",
            "signature": logs.MASK,
        }

    def test_strikes_secrets_out_of_tracebacks(self, lines: io.StringIO) -> None:
        try:
            raise ValueError(f"bad answer to /order?signature={SECRET}")
        except ValueError:
            logging.getLogger("tradehub.under_test").exception("Failed")

        assert SECRET not in lines.getvalue()
        assert "ValueError: bad answer" in str(written(lines)["exception"])

    def test_leaves_ordinary_words_and_numbers_alone(self, lines: io.StringIO) -> None:
        structlog.get_logger("tradehub.under_test").info(
            "30 orders at 95000.5 for BTC/USDT, https://host:9800/path", count=30, filled=None
        )

        line = written(lines)
        assert line["event"] == "30 orders at 95000.5 for BTC/USDT, https://host:9800/path"
        assert (line["count"], line["filled"]) == (30, None)


class TestCorrelationMiddleware:
    def test_answers_with_the_id_it_was_given_or_a_new_one(self, client: Client) -> None:
        assert (
            client.get("/healthz", headers={"X-Request-ID": "from-the-proxy"})["X-Request-ID"]
            == "from-the-proxy"
        )
        assert len(client.get("/healthz")["X-Request-ID"]) == 26

    def test_does_not_repeat_what_is_no_id(self, client: Client) -> None:
        assert client.get("/healthz", headers={"X-Request-ID": "<b>hello, world</b>"})[
            "X-Request-ID"
        ].isalnum()

    def test_leaves_nothing_bound_after_the_request(self, client: Client) -> None:
        client.get("/healthz")

        assert "correlation_id" not in structlog.contextvars.get_contextvars()
