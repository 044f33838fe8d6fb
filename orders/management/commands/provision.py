from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from orders.provisioning import ProvisionFaults, read_provision_file
from orders.services.provision import provision


class Command(BaseCommand):
    help = "Make the database say what a JSON or TOML file of users, accounts and strategies says."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--check",
            action="store_true",
            help="Change nothing; show the difference, and exit with 1 if there is one.",
        )

    def handle(self, *args: Any, file: Path, check: bool, **options: Any) -> None:
        try:
            result = provision(read_provision_file(file, environment=os.environ), check_only=check)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}", returncode=2) from None
        except ProvisionFaults as error:
            raise CommandError("\n".join(["Nothing was changed:", *error.faults]), returncode=2) from None
        for change in result.changes:
            self.stdout.write(str(change))
        if not result.changes:
            self.stdout.write("Nothing to change.")
        elif check:
            raise CommandError(f"{len(result.changes)} differences", returncode=1)
