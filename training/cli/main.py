"""`router-train`, the command line of training. Only this room prints and reads arguments."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from training.cli import added, bundles, evidence, inspecting, logs, planning
from training.cli.options import HERE, at_home, require_local
from training.cli.seeing import compare, savings, stored
from training.cli.show import errors, say
from training.errors import TrainingError


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
    app()


if __name__ == "__main__":
    main()
