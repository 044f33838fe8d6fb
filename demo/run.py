"""`make demo`: everything on this machine, on SQLite, against the simulator, until Ctrl-C.

The state stands in `var/demo/` and begins anew with each start, because the simulator's does too; only
the login, the tokens and the keys stay the same. The processes are the Procfile's, run by honcho.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
STATE = Path(os.environ.get("DEMO_STATE", ROOT / "var" / "demo"))
LOG = STATE / "processes.log"
PROCESSES = ("web", "worker", "streams", "simulator")
READY_SECONDS = 60
STOP_SECONDS = 8  # honcho itself kills after five


class Stopped(Exception):
    """Ctrl-C, or whoever started us wants us to end."""


class NotReady(Exception):
    """The demo did not come up; the message says what is missing."""


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def demo_secrets() -> dict[str, str]:
    """Return this demo's login, tokens and keys; each is made at the first start that wants it."""
    path = STATE / "secrets.json"
    kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    made = {
        "SECRET_KEY": secrets.token_urlsafe(50),
        "FIELD_ENCRYPTION_KEYS": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "DEMO_PASSWORD": secrets.token_urlsafe(9),
        "DEMO_TOKEN": secrets.token_urlsafe(18),
        "DEMO_SPOT_TOKEN": secrets.token_urlsafe(18),
        "DEMO_API_KEY": secrets.token_hex(16),
        "DEMO_API_SECRET": secrets.token_hex(32),
        "METRICS_TOKEN": secrets.token_urlsafe(18),
    } | kept
    if made != kept:
        path.touch(mode=0o600)
        path.write_text(json.dumps(made, indent=2))
    return made


def free_port(wanted: int) -> int:
    """Return `wanted`, or the next port that nobody listens on."""
    for port in range(wanted, wanted + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise NotReady(f"no free port between {wanted} and {wanted + 99}")


def environment(made: dict[str, str], *, web_port: int, simulator_port: int) -> dict[str, str]:
    """Return the environment of every process: production's settings, without TLS."""
    mine = {name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return (
        mine
        | made
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "DOTENV": os.devnull,  # somebody's own settings are not the demo's
            "HTTPS": "false",
            "LOG_JSON": "false",
            "DATABASE_URL": f"sqlite:///{STATE / 'tradehub.sqlite3'}",
            "WEB_PORT": str(web_port),
            "SIMULATOR_PORT": str(simulator_port),
            "SIMULATOR_OPTIONS": f"--account {made['DEMO_API_KEY']}:{made['DEMO_API_SECRET']}",
            "SIMULATOR_URL": f"http://127.0.0.1:{simulator_port}",
        }
    )


def manage(*arguments: str, env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotReady(f"manage.py {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def prepare(env: dict[str, str]) -> None:
    for leftover in STATE.glob("tradehub.sqlite3*"):
        leftover.unlink()
    manage("migrate", "--verbosity", "0", env=env)
    manage("provision", "demo/demo.json", env=env)


def fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # straight, whatever HTTP_PROXY says
    with opener.open(url, timeout=5) as answer:
        body: bytes = answer.read()
    return body


def started() -> dict[str, int]:
    """Return the process groups that honcho says it has started, by name."""
    return {name: int(pid) for name, pid in re.findall(r"([\w.]+) started \(pid=(\d+)\)", LOG.read_text())}


class Demo:
    """honcho and what it runs."""

    def __init__(self, env: dict[str, str]) -> None:
        # A session of its own: Ctrl-C in the terminal reaches us alone, and we end it in good order.
        with LOG.open("wb") as log:
            self.honcho = subprocess.Popen(
                [sys.executable, "-m", "honcho", "-e", os.devnull, "start", "--no-colour", *PROCESSES],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, missing: Callable[[], str], *, seconds: float) -> None:
        """Wait until `missing` names nothing. Raises NotReady with what it named last."""
        deadline = time.monotonic() + seconds
        while word := missing():
            if self.honcho.poll() is not None:
                raise NotReady("a process ended")
            if time.monotonic() > deadline:
                raise NotReady(f"after {seconds:.0f} s there is still no {word}")
            time.sleep(0.3)

    def wait(self) -> None:
        """Wait until a process ends by itself, which honcho answers by ending all."""
        self.honcho.wait()
        raise NotReady("a process ended")

    def stop(self) -> None:
        """End every process, by force where asking does not help."""
        with suppress(NotReady):  # honcho loses its head when it is told to end while it begins
            self.wait_until(lambda: "" if len(started()) == len(PROCESSES) else "process", seconds=3)
        self.honcho.terminate()
        try:
            self.honcho.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.honcho.pid, signal.SIGKILL)
            self.honcho.wait()
        for group in started().values():
            with suppress(ProcessLookupError):  # the usual case: it is gone
                os.killpg(group, signal.SIGKILL)


def what_is_missing(env: dict[str, str]) -> str:
    """Return what the story still needs before somebody can send the first webhook, or nothing."""
    web, simulator = f"http://127.0.0.1:{env['WEB_PORT']}", env["SIMULATOR_URL"]
    for name, url in (
        ("simulator", f"{simulator}/binance-futures/fapi/v1/ping"),
        ("web server", f"{web}/readyz?for=webhooks"),
    ):
        try:
            fetch(url)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return name
    from exchanges.models import Instrument
    from tracking.models import OrderTrackingSession, SessionStatus

    if not Instrument.objects.filter(market_type="FUTURES").exists():
        return "list of instruments"
    if not OrderTrackingSession.objects.filter(
        market_type="FUTURES", status=SessionStatus.CONNECTED
    ).exists():
        return "stream of the account"
    return ""


def example(env: dict[str, str]) -> str:
    """Return a webhook around the simulator's price: one that fills now, some that wait."""
    quote = fetch(f"{env['SIMULATOR_URL']}/binance-futures/fapi/v1/ticker/price?symbol=BTCUSDT")
    price = Decimal(json.loads(quote)["price"])

    def limit(side: str, offset: str, percent: int) -> dict[str, object]:
        at = (price * (1 + Decimal(offset))).quantize(Decimal("0.1"))
        return {"order_type": "LIMIT", "side": side, "price": str(at), "qty_per": percent}

    payload = {
        "group_name": "demo",
        "token": env["DEMO_TOKEN"],
        "symbol": "BTC/USDT",
        "orders": [
            {"order_type": "MARKET", "side": "buy", "qty_per": 20},
            limit("buy", "-0.0003", 40),
            limit("buy", "-0.0010", 40),
            limit("sell", "0.0005", 10),
            limit("sell", "0.0015", 10),
        ],
    }
    return (
        f"curl -X POST http://127.0.0.1:{env['WEB_PORT']}/api/webhook "
        f"-H 'Content-Type: application/json' -d '{json.dumps(payload)}'"
    )


def invite(env: dict[str, str]) -> None:
    say(f"""
tradehub is running. Logs: {LOG}

  page      http://127.0.0.1:{env["WEB_PORT"]}/positions
  admin     http://127.0.0.1:{env["WEB_PORT"]}/admin/
  login     demo
  password  {env["DEMO_PASSWORD"]}
  strategy  demo
  token     {env["DEMO_TOKEN"]}

Open the page, then send a webhook from another terminal and watch:

{example(env)}

The figures for Prometheus:

curl -H 'Authorization: Bearer {env["METRICS_TOKEN"]}' http://127.0.0.1:{env["WEB_PORT"]}/metrics

Ctrl-C ends everything.""")


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped


def main() -> int:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), _stop)
    STATE.mkdir(parents=True, exist_ok=True)
    web_port = free_port(int(os.environ.get("WEB_PORT", 8000)))
    simulator_port = free_port(int(os.environ.get("SIMULATOR_PORT", 9800)))
    env = environment(demo_secrets(), web_port=web_port, simulator_port=simulator_port)
    demo: Demo | None = None
    try:
        say("Setting the demo up ...")
        prepare(env)
        demo = Demo(env)
        os.environ.update(env, DJANGO_SETTINGS_MODULE="tradehub.settings")
        import django

        sys.path.insert(0, str(ROOT))
        django.setup()
        demo.wait_until(lambda: what_is_missing(env), seconds=READY_SECONDS)
        invite(env)
        demo.wait()
    except Stopped:
        say("Ending ...")
        return 0
    except NotReady as error:
        say(f"The demo cannot run: {error}")
        if demo:
            say(f"The last lines of {LOG}:\n" + "\n".join(LOG.read_text(errors="replace").splitlines()[-40:]))
        return 1
    finally:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # one is enough: we are ending
        if demo:
            demo.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
