"""What a service takes over while requests go on: its bundle, its shadow bundle and its rule file, each refused by itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.bundle.manifest import BundleError, Manifest
from serving.decide.exploration import rate_of
from serving.runtime.live import Live
from serving.runtime.upkeep import Periodic
from serving.settings import Settings, metrics_folder, several_processes
from serving.state.reloads import Reloaded, Reloads
from serving.state.rulebook import RemovedKeyError, RuleBook, RulesError, load_rules

logger = logging.getLogger(__name__)

# How often a worker looks whether all of them are to reload, and how long the one that was asked waits for the others.
_LOOK_SECONDS = 0.2
_WAIT_SECONDS = 30.0


class Reloading:
    """The bundle (`live`), the shadow bundle and the rules that are in force, as the settings name them.

    `follow` is called with other rules before they are in force. Raises BundleError or RulesError where there is nothing to
    begin with; later what cannot be taken over is refused, and what was there stays.
    """

    def __init__(self, settings: Settings, follow: Callable[[RuleBook], None]) -> None:
        self._settings, self._follow = settings, follow
        self._taking = threading.RLock()
        # Before anything is loaded: who asks for a reload meanwhile does not mean what is loaded here.
        self._reloads = Reloads(Path(metrics_folder()) if several_processes() else None, self._here)
        self._watching: list[Periodic] = []
        self.rules_refused: str | None = None
        self._refused_by = ""
        self._file = self._tried = _signature(settings.policies)
        self.rules = load_rules(settings.policies)
        self._before = self._coming = self.rules
        self.live = self._load(settings.bundle, self._check_bundle)
        self._check(self.rules, self.live.current.router.candidates)
        self._say_if_unexplored(self.live.current.router.manifest)
        self._say_if_unasked(self.rules)
        self.shadow = self._load(settings.shadow) if settings.shadow else None

    def rules_for(self, key: str | None) -> RuleBook:
        """The rules for a caller's key: one that was just taken away was good when its caller was asked for it.

        Raises RemovedKeyError for one that was taken away before that: how long a body takes is its client's to choose.
        """
        rules, before = self.rules, self._before
        if key is None or key in rules.keys:
            return rules
        if key not in before.keys:
            raise RemovedKeyError(key)
        return before

    def everywhere(self) -> list[Reloaded]:
        """Has every worker take over what is new; what each has, this one first."""
        return self._reloads.everywhere(_WAIT_SECONDS)

    def start(self) -> None:
        """Begins to watch for other bundles and another rule file, and for reloads that another worker was asked for."""
        seconds = self._settings.watch_seconds
        self.live.watch(seconds, "bundle-watch")
        if self.shadow is not None:
            self.shadow.watch(seconds, "shadow-watch")
        self._reloads.begin(self._serves(False, {}))
        if several_processes():
            self._watching.append(Periodic("reload", _LOOK_SECONDS, self._reloads.look))
        if self._settings.policies is not None:
            self._watching.append(Periodic("rules-watch", seconds, self._look_at_rules))

    def stop(self) -> None:
        """Ends what `start` began."""
        self._reloads.close()
        self.live.stop()
        if self.shadow is not None:
            self.shadow.stop()
        for one in self._watching:
            one.stop()

    def _load(self, source: str, check: Callable[[Manifest], None] | None = None) -> Live:
        options = self._settings
        return Live(
            source,
            threads=options.threads,
            context_margin=options.context_margin,
            cache=options.embedding_cache_bytes,
            check=check,
        )

    def _here(self) -> Reloaded:
        """Takes over what is new in this worker."""
        refused: dict[str, str] = {}
        changed = False
        try:
            changed = self._taken(refused)
        except Exception as error:  # the others, and who asked, wait for an answer
            logger.exception("a reload failed")
            refused["worker"] = f"the reload failed ({type(error).__name__}), its log says why"
        return self._serves(changed, refused)

    def _taken(self, refused: dict[str, str]) -> bool:
        """Whether anything is another one now; what is `refused` is put there."""
        with self._taking:
            try:
                self._tried = _signature(self._settings.policies)
                self._coming = load_rules(self._settings.policies)  # a new bundle is held against what will be in force
            except RulesError as error:
                refused["rules"] = str(error)
            bundle = self.live.reload()
            changed = bundle.changed
            if bundle.refused is not None:
                refused["bundle"] = bundle.refused
            try:
                changed = self._take_rules() or changed
            except RulesError as error:
                refused["rules"] = str(error)
            self.rules_refused, self._refused_by = refused.get("rules"), self.live.version
        if self.shadow is not None:
            shadow = self.shadow.reload()
            changed = changed or shadow.changed
            if shadow.refused is not None:
                refused["shadow"] = shadow.refused
        return changed

    def _look_at_rules(self) -> None:
        """Takes over a rule file that is another one since the last look, and still the same now: nobody is writing it.

        One that is wrong is refused as a whole, and so is one without any key where there were some: a file cut short would
        open the service to everyone.
        """
        before, self._file = self._file, _signature(self._settings.policies)
        # What was refused may have been meant for the bundle that has come since.
        again = self.rules_refused is not None and self._refused_by != self.live.version
        if self._file != before or (self._file == self._tried and not again):
            return
        with self._taking:
            self._tried, self._refused_by = self._file, self.live.version
            try:
                self._coming = load_rules(self._settings.policies)
                if self.rules.keys and not self._coming.keys:
                    raise RulesError(
                        f"{self._settings.policies}: it has no API key any more, which would open the service to everyone; "
                        "if that is meant, POST /v1/admin/reload or start anew"
                    )
                self._take_rules()
            except RulesError as error:
                self._coming, self.rules_refused = self.rules, str(error)
                logger.error("the rule file is refused, the rules before it stay: %s", error)
                return
            self.rules_refused = None

    def _take_rules(self) -> bool:
        """Puts the rules that come in force; False where they are what is in force. Raises RulesError, and leaves them."""
        coming, self._coming = self._coming, self.rules
        if coming == self.rules:
            return False
        self._check(coming, self.live.current.router.candidates)
        self._follow(coming)
        self._say_if_unasked(coming)
        self._before, self.rules, self._coming = self.rules, coming, coming
        logger.info("the rules are now those of %s", self._settings.policies)
        return True

    def _check_bundle(self, manifest: Manifest) -> None:
        """Raises BundleError for a new bundle without a candidate that the rules name."""
        try:
            self._check(self._coming, [one.name for one in manifest.candidates])
        except RulesError as error:
            raise BundleError(str(error)) from error
        self._say_if_unexplored(manifest)

    def _say_if_unexplored(self, manifest: Manifest) -> None:
        """Warns where the certificate of the usual point has set nothing aside for the exploring that is asked for."""
        asked, point = self._settings.explore, manifest.default
        if asked > (given := rate_of(asked, point)):
            logger.warning(
                "ROUTER_EXPLORE is %g, and at %s, the usual operating point of bundle %s, a share of %g is explored: its "
                "certificate has set aside no more. To set more aside, train with --set policy.explore=0.2, a share of alpha",
                *(asked, point.name, manifest.version, given),
            )

    def _say_if_unasked(self, rules: RuleBook) -> None:
        """Warns where others are to be asked too and no store holds what that may cost, or keeps what could be learnt of it."""
        if rules.also.share > 0 and not (self._settings.store and self._settings.store_prompts):
            logger.warning(
                "also.share of %s is %g, and nobody is asked too: that needs ROUTER_STORE, and ROUTER_STORE_PROMPTS=true",
                *(self._settings.policies, rules.also.share),
            )

    def _check(self, book: RuleBook, known: Sequence[str]) -> None:
        try:
            book.check_against(known)
        except RulesError as error:
            raise RulesError(f"{self._settings.policies}: {error}") from None

    def _serves(self, changed: bool, refused: dict[str, str]) -> Reloaded:
        return Reloaded(changed, self.live.version, None if self.shadow is None else self.shadow.version, refused)


def _signature(path: Path | None) -> tuple[int, ...] | None:
    """What tells one version of a file from another; None where there is none."""
    try:
        stat = None if path is None else path.stat()
    except OSError:
        return None
    return None if stat is None else (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
