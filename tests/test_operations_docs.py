"""What the documents and the files in deploy/ name exists, and the units start what the Procfile starts."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from exchanges import measures
from tests.processes import ROOT

DOCS = (ROOT / "docs" / "operations.md", ROOT / "README.md")
UNITS = ROOT / "deploy" / "systemd"
TEXT = (ROOT / "docs" / "operations.md").read_text()
SETTINGS = set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
PREFIX = "/opt/tradehub/.venv/bin/"
IMAGE = "tradehub:${TRADEHUB_VERSION:-local}"
COMPOSE = [ROOT / "deploy" / name for name in ("compose.yaml", "compose.private.yaml")]
# What Compose and the Procfile fill in themselves.
ASKED = {name for path in COMPOSE for name in re.findall(r"\$\{(\w+)", path.read_text())}
ASKED |= set(re.findall(r"\$\{(\w+)", (ROOT / "Procfile").read_text()))


def procfile() -> dict[str, str]:
    """What each process is started with; what a shell would fill in stands as its default."""
    lines = (line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", command).strip() for name, command in lines}


def unit(name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return dict(parser["Service"])


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    return loaded


class TestDocuments:
    @pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
    def test_name_only_settings_that_exist(self, path: Path) -> None:
        named = set(re.findall(r"`\$?([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", path.read_text()))

        assert named
        assert named - SETTINGS - ASKED == set()

    @pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
    def test_name_only_commands_that_exist(self, path: Path) -> None:
        named = set(re.findall(r"manage\.py ([a-z_]+)", path.read_text()))

        assert named - set(get_commands()) == set()

    @pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
    def test_lead_only_to_files_that_exist(self, path: Path) -> None:
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())

        assert [link for link in links if not (path.parent / link).exists()] == []

    def test_tell_every_metric_and_no_other(self) -> None:
        exposition = (ROOT / "tradehub" / "exposition.py").read_text()
        gauges = set(re.findall(r'"(tradehub_\w+)"', exposition))
        counters = {
            f"{metric.name}_total" if metric.type == "counter" else metric.name
            for metric in measures.REGISTRY.collect()
        }
        told = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\btradehub_[a-z_]+", TEXT)}

        assert told == gauges | counters

    def test_make_the_database_before_the_processes_that_need_it(self) -> None:
        steps = ["createdb", "env.example", "manage migrate\n", "  units\n", "systemctl enable --now"]
        (commands,) = (block for block in TEXT.split("```") if "systemctl enable" in block)

        assert sorted(steps, key=commands.index) == steps

    def test_share_the_exchanges_limits_as_they_tell(self) -> None:
        """1 / the number of web and streams processes behind one address."""
        (units,) = re.findall(r"systemctl enable --now (.*)", TEXT)
        sending = len(re.findall(r"tradehub-(?:web|streams)@", units))
        text = (ROOT / "deploy" / "tradehub.env.example").read_text()

        assert re.findall(r"^EXCHANGE_RATE_SHARE=(.*)$", text, re.MULTILINE) == [str(1 / sending)]
        services = compose()["services"]
        sending = sum(name.startswith(("web", "streams")) for name in services)
        share = services["web1"]["environment"]["EXCHANGE_RATE_SHARE"]
        assert share == f"${{EXCHANGE_RATE_SHARE:-{1 / sending}}}"


class TestUnits:
    @pytest.mark.parametrize(
        ("name", "process"),
        [("tradehub-worker.service", "worker"), ("tradehub-streams@.service", "streams")],
    )
    def test_start_what_the_procfile_starts(self, name: str, process: str) -> None:
        assert unit(name)["ExecStart"] == PREFIX + procfile()[process]

    def test_start_the_web_as_the_procfile_does(self) -> None:
        web = unit("tradehub-web@.service")
        name, host = web["Environment"].split("=")  # tradehub.env may say otherwise
        started = web["ExecStart"].replace(f"${{{name}}}", host)

        assert name == "WEB_HOST"
        assert started == PREFIX + procfile()["web"].replace("--port 8000", "--port %i")

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
    def test_are_good_units(self, tmp_path: Path) -> None:
        for path in UNITS.iterdir():
            # What they start is not installed where tests run.
            text = path.read_text().replace(PREFIX, f"{Path(sys.executable).parent}/")
            (tmp_path / path.name).write_text(text)

        units = [str(path) for path in tmp_path.iterdir()]
        done = subprocess.run(
            ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60
        )

        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    def test_are_installed_to_start_one_release(self, tmp_path: Path) -> None:
        """By the shell function that the document defines."""
        (function,) = re.findall(r"^  (units\(\) \{.*?^  \})", TEXT, re.MULTILINE | re.DOTALL)
        (tmp_path / "deploy").symlink_to(ROOT / "deploy")
        (tmp_path / "installed").mkdir()
        function = function.replace("/etc/systemd/system", str(tmp_path / "installed"))
        script = f"systemctl() {{ :; }}\nrelease={tmp_path}\n{function}\nunits\n"
        subprocess.run(["sh", "-euc", script], check=True, timeout=20)

        for path in UNITS.iterdir():
            before, after = path.read_text(), (tmp_path / "installed" / path.name).read_text()
            wanted = re.sub(r"^(\w+=)/opt/tradehub", rf"\1{tmp_path}", before, flags=re.MULTILINE)
            assert after == wanted
            assert after.count(f"={tmp_path}") == (0 if path.suffix == ".target" else 2)

    def test_the_target_wants_units_that_exist(self) -> None:
        wanted = re.findall(r"^Wants=(.*)$", (UNITS / "tradehub.target").read_text(), re.MULTILINE)
        names = {re.sub(r"@\w+", "@", name) for line in wanted for name in line.split()}

        assert names == {path.name for path in UNITS.glob("*.service")}


class TestCompose:
    def test_starts_what_the_procfile_starts(self) -> None:
        services = compose()["services"]
        for process, number in (("worker", 1), ("streams", 2)):
            commands = [one["command"] for name, one in services.items() if name.startswith(process)]
            assert commands == [procfile()[process].split()] * number

        (command,) = re.findall(r"^CMD (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        web = procfile()["web"].replace("127.0.0.1", "0.0.0.0")
        assert yaml.safe_load(command) == web.split()
        webs = {name for name, one in services.items() if name.startswith("web") and "command" not in one}
        assert webs == {"web1", "web2"}

    def test_sets_only_settings_that_exist(self) -> None:
        services = compose()["services"]
        ours = [one for one in services.values() if one["image"] == IMAGE]

        assert len(ours) == 6
        for one in ours:
            assert set(one["environment"]) - SETTINGS == set()
            assert one["read_only"] is True

    def test_publishes_every_web_process_on_the_private_address(self) -> None:
        private = yaml.safe_load(COMPOSE[1].read_text())["services"]

        assert set(private) == {name for name in compose()["services"] if name.startswith("web")}
        ports = [port for one in private.values() for port in one["ports"]]
        assert len(ports) == len(set(ports))
        assert all(port.startswith("${PRIVATE_ADDRESS:?") for port in ports)

    def test_makes_one_machine_of_its_containers(self) -> None:
        """Breakers are kept by host name, which is the container's own unless it is given one."""
        services = compose()["services"]
        ours = [one for one in services.values() if one["image"] == IMAGE]

        assert {one.get("hostname") for one in ours} == {"${MACHINE:-tradehub}"}

    def test_hands_every_setting_on_but_those_that_it_decides_itself(self) -> None:
        services = compose()["services"]
        ours = [one for one in services.values() if one["image"] == IMAGE]
        example = (ROOT / "deploy" / "compose.env.example").read_text()
        told = re.search(r"itself sets (.*?):", example.replace("\n# ", " "))
        assert told is not None

        for one in ours:
            assert one["env_file"] == "compose.env"
            decided = {name for name, value in one["environment"].items() if f"${{{name}" not in value}
            assert decided == set(re.findall(r"[A-Z_]{5,}", told[1]))

    def test_asks_for_what_its_example_names(self) -> None:
        text = "".join(path.read_text() for path in COMPOSE)
        example = (ROOT / "deploy" / "compose.env.example").read_text()
        asked = set(re.findall(r"\$\{(\w+)", text))
        named = set(re.findall(r"^(?:# )?([A-Z_]+)=", example, re.MULTILINE))

        assert asked - named == set()
        assert named - asked - SETTINGS == set()

    def test_the_example_of_the_units_names_only_settings_that_exist(self) -> None:
        example = (ROOT / "deploy" / "tradehub.env.example").read_text()

        assert set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)) - SETTINGS == set()


class TestImage:
    def test_holds_every_room_and_nothing_else(self) -> None:
        copied = set(re.findall(r"^COPY (\w[\w.]*) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
        allowed = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))

        assert copied == allowed
        assert all((ROOT / name).exists() for name in copied)
        assert {"exchanges", "orders", "tracking", "notifications", "tradehub"} <= copied

    def test_installs_the_same_requirements_with_their_hashes(self) -> None:
        text = (ROOT / "Dockerfile").read_text()

        assert "--require-hashes -r /requirements.txt" in text
        assert re.search(r"^USER tradehub$", text, re.MULTILINE)
