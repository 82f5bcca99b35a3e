"""`router-train`, the command line of training. Only this room prints and reads arguments."""

from __future__ import annotations

import os
import sqlite3
from itertools import islice
from pathlib import Path
from signal import SIG_IGN, SIGTERM, signal
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text
from typer.core import TyperGroup

from training.cli import added, bundles, evidence, inspecting, logs, planning
from training.cli.options import HERE, at_home, require_local
from training.cli.seeing import compare, savings, stored
from training.cli.show import errors, say
from training.errors import NO_ROOM, TrainingError


def _mendable() -> tuple[type[Exception], ...]:
    from serving.bundle.manifest import BundleError

    return TrainingError, BundleError


_WORDS = "outcome_router.words"


class _Commands(TyperGroup):
    """Shows what a user can mend as one message, with exit code 2; anything else is a fault of ours, with its traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`--home` may stand behind the command as well."""
        home: list[str] = []
        others: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--home":
                home += [word, *islice(words, 1)]
            else:
                (home if word.startswith("--home=") else others).append(word)
        ctx.meta[_WORDS] = [*home, *others]
        parsed: list[str] = super().parse_args(ctx, [*home, *others])
        return parsed

    def invoke(self, ctx: Any) -> Any:
        try:
            require_local(ctx.meta[_WORDS])
            return super().invoke(ctx)
        except typer.Exit:  # help was shown: what a bundle's errors need is not imported for it
            raise
        except _mendable() as error:
            errors.print(Text("error:", "bold red"), end=" ")
            say(str(error), to=errors)
            raise typer.Exit(2) from None
        except (OSError, sqlite3.OperationalError) as error:
            if (full := _no_room(error)) is None:
                raise
            errors.print(Text("error:", "bold red"), end=" ")
            say(full, to=errors)
            raise typer.Exit(2) from None


def _no_room(error: OSError | sqlite3.OperationalError) -> str | None:
    """What to say of a disk that is full; None for any other error."""
    if isinstance(error, OSError):
        if error.errno not in NO_ROOM:
            return None
        told = f"{error.filename}: {os.strerror(error.errno)}" if error.filename else os.strerror(error.errno)
    elif getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        told = str(error)
    else:
        return None
    return (
        f"{told}. Make room, or give other places for what is written: --cache, --out and, for temporary files, TMPDIR"
    )


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From a log of LLM calls to a bundle that router-serve serves: look at the log (inspect), find its prices "
    "(catalogue), train on it (run). Every command that reads a log takes the same options and gets the same outcomes.",
)
app.add_typer(logs.app)
app.add_typer(inspecting.app)
app.add_typer(evidence.app)
app.add_typer(bundles.app)
app.add_typer(compare.app)
app.add_typer(planning.app)
app.add_typer(added.app)
app.add_typer(savings.app)
app.add_typer(stored.app)


@app.callback()
def _everywhere(
    context: typer.Context,
    home: Annotated[
        Path, typer.Option(envvar="ROUTER_HOME", help="The folder of what is written: models, .cache and mlruns.")
    ] = HERE,
) -> None:
    context.default_map = at_home(home)


def main() -> None:
    signal(SIGTERM, _asked_to_end)
    app()


def _asked_to_end(number: int, *_: object) -> NoReturn:
    """Ends as an interrupted command does: what is half written, and what workers share, is removed on the way out."""
    signal(SIGTERM, SIG_IGN)  # asked once more it goes on removing
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
