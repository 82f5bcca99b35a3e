"""`router-serve`: settings from options and the environment, and the processes that serve.

Before the options may stand a command: `check` looks at all that serving needs and ends, `new-key NAME` makes an API key,
`prune` lets go of old decisions.
"""

from __future__ import annotations

import gc
import logging
import re
import resource
import secrets
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from serving.api.app import create_app
from serving.bundle.manifest import BundleError
from serving.connections import BoundedHttp
from serving.decide.eligibility import NoEligibleCandidateError
from serving.decide.policy import Policy
from serving.runtime.live import share_arenas
from serving.runtime.logs import configure_logging
from serving.runtime.pipeline import Service
from serving.runtime.reloading import Reloading
from serving.settings import Settings, hand_on, share_metrics, unknown_variables
from serving.state.rulebook import RulesError, digest_of
from serving.store.engine import StoreError, kept, looked_at
from serving.store.months import command as pruning
from serving.store.months.prune import BusyError

logger = logging.getLogger(__name__)

_KEY_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ALONE = (
    "ROUTER_HASH_SECRET is not set: other replicas on this PostgreSQL, and this one after a restart, do not know the sessions; "
    "give all of them the same"
)
_FILES = 128  # what the store, the bundle and the metrics may have open beside connections


def main(arguments: Sequence[str] | None = None) -> None:
    """`router-serve`; without arguments those of the process. What is wrong is one line on standard error and exit code 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["new-key"]:
        _new_key(given[1:])
        return
    if given[:1] == ["prune"]:
        try:
            pruning.main(given[1:])
        except (SettingsError, StoreError, BusyError, ValidationError) as error:
            _give_up(_said(error))
        return
    checking = given[:1] == ["check"]
    try:
        settings = CliApp.run(Settings, given[checking:], cli_exit_on_error=False, cli_show_env_vars=True)
        if unknown := unknown_variables():
            _give_up(unknown[0] + (f" ({len(unknown) - 1} more)" if len(unknown) > 1 else ""))
        if checking:
            _check(settings)
            return
        share_arenas()
        alone = settings.hash_secret is None
        if alone:  # one for all workers
            settings = settings.model_copy(update={"hash_secret": secrets.token_hex()})
        service = Service(settings) if settings.workers == 1 else None
        if service is None:
            Service(settings).close()  # says what is wrong before there are workers to say it each
    except (ValidationError, SettingsError, BundleError, RulesError, StoreError) as error:
        _give_up(_said(error))
    configure_logging(settings.log_level)
    logger.info(kept(settings.store, prompts=settings.store_prompts))
    if alone and (settings.store or "").startswith("postgres"):
        logger.warning(_ALONE)
    if service is not None:
        gc.freeze()  # what is loaded now stays: looking through it again and again would make some decisions slow
        uvicorn.run(create_app(settings, service), **server_options(settings))
        return
    # Workers are new processes that read their settings from the environment.
    hand_on(settings)
    with tempfile.TemporaryDirectory(prefix="router-metrics-") as folder:
        share_metrics(folder)
        uvicorn.run("serving.cli:worker", factory=True, workers=settings.workers, **server_options(settings))


def _check(settings: Settings) -> None:
    """Prints what would be served: bundle, rules and store, looked at as at a start. Nothing is made, no port is opened."""
    parts = Reloading(settings, lambda _: None)
    manifest = parts.live.current.router.manifest
    unpriced = [one.name for one in manifest.candidates if not one.priced]
    router = parts.live.current.router
    refusing = []
    for scope, rules in parts.rules.every_scope():
        try:
            router.route("Is anybody there?", rules.tightening or Policy())
        except NoEligibleCandidateError as error:
            refusing.append(f"WARNING: under the rules of {scope} nobody may answer a plain prompt: {error}")
    lines = [
        f"bundle: {manifest.version} at {settings.bundle}: {len(manifest.candidates)} candidates, the reference is "
        f"{manifest.reference}, the usual operating point {manifest.default_point}",
        f"candidates without a price: {', '.join(unpriced)}" if unpriced else "every candidate has a price",
        "no shadow bundle" if parts.shadow is None else f"shadow bundle: {parts.shadow.version} at {settings.shadow}",
        "no rule file: whoever reaches the port may route"
        if settings.policies is None
        else f"rules: {settings.policies}: {len(parts.rules.workflows)} workflows, {len(parts.rules.keys)} API keys",
        f"store: {looked_at(settings.store)}" if settings.store else "no store",
        kept(settings.store, prompts=settings.store_prompts),
        *(
            [f"WARNING: {_ALONE}"]
            if settings.hash_secret is None and (settings.store or "").startswith("postgres")
            else []
        ),
    ]
    sys.stdout.write("".join(f"{line}\n" for line in [*lines, *refusing, "ready to serve"]))


def _new_key(arguments: Sequence[str]) -> None:
    """Prints a rule file's section for a new key on standard output, and the key itself on standard error."""
    if len(arguments) != 1 or not _KEY_NAME.fullmatch(arguments[0]):
        _give_up(
            "expected new-key NAME, the name of letters, digits, _ and -, as: router-serve new-key app >> policies.toml"
        )
    key = f"or-{secrets.token_urlsafe(32)}"
    sys.stderr.write(f"The key, which is not shown again: {key}\n")
    sys.stdout.write(f'\n[keys.{arguments[0]}]\nsha256 = "{digest_of(key)}"\n')


def server_options(settings: Settings) -> dict[str, Any]:
    """How uvicorn serves; there are no websockets, and what it needs is named rather than found."""
    return {
        "host": settings.host,
        "port": settings.port,
        "loop": "uvloop",
        "http": BoundedHttp,
        "ws": "none",
        "log_config": None,
        # uvicorn would believe whoever comes from this machine which address a request is from.
        "proxy_headers": settings.trusted_proxies is not None,
        "forwarded_allow_ips": settings.trusted_proxies,
        "access_log": settings.log_level == "debug",
        "limit_concurrency": _connections(settings),
        # Longer than a client or a load balancer keeps an idle connection: whoever closes first must be the one that would
        # send the next request, or that request meets a closed connection.
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": 15,
        # A worker that loads on a busy machine is not dead yet, and killing it makes the machine busier.
        "timeout_worker_healthcheck": 60,
    }


def _connections(settings: Settings) -> int:
    """How many connections there may be: a process that has no file left accepts none, and does not even say so."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return settings.connections if soft == resource.RLIM_INFINITY else min(settings.connections, max(soft - _FILES, 1))


def worker() -> FastAPI:
    """The application of one worker process, which sets up its own logging."""
    share_arenas()
    settings = Settings()
    configure_logging(settings.log_level)
    return create_app(settings)


def _said(error: Exception) -> str:
    """What is wrong, in a line."""
    if isinstance(error, ValidationError):
        wrong = error.errors()[0]
        return f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}; {wrong['input']!r} arrived"
    return str(error).removeprefix("error parsing CLI: ")


def _give_up(why: str) -> NoReturn:
    sys.stderr.write(f"router-serve: {why}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    main()
