"""The commands on a service's store. Serving owns its tables, so its own command does what is asked for here."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

app = typer.Typer()
store = typer.Typer(no_args_is_help=True, help="Look after the store of a service.")
app.add_typer(store, name="store")


@store.callback()
def _store() -> None:
    """Look after the store of a service."""


@store.command()
def prune(
    data: Annotated[str, typer.Option(help="The service's store: its SQLite file, sqlite:///… or postgresql://…")],
    older_than: Annotated[
        str, typer.Option(help="Days, as 400d. Decisions of the running month stay until it is over.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, by month; nothing is changed.")
    ] = False,
    batch: Annotated[int | None, typer.Option(help="Decisions in one transaction. Default: 10,000.")] = None,
) -> None:
    """Let go of old decisions with all that is about them: feedback, charges, repeated answers. As router-serve prune."""
    options = ["--older-than", older_than, *(["--dry-run"] if dry_run else [])]
    options += [] if batch is None else ["--batch", str(batch)]
    # By the environment, for a URL may hold a password, and everybody sees what a command is called with.
    environment = {**os.environ, "ROUTER_STORE": data}
    with subprocess.Popen([sys.executable, "-m", "serving.cli", "prune", *options], env=environment) as pruning:
        try:
            ended = pruning.wait()
        except BaseException:  # who ends this command ends that one, in its own order
            pruning.terminate()
            raise
    raise typer.Exit(ended)
