"""LiteLLM's model groups beside the settings: a name that no group has, and who answers while nobody decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from serving.decide.globs import matches
from serving.integrations.litellm.counters import Complaints
from serving.integrations.litellm.refusals import meant
from serving.integrations.litellm.rows import candidates_of, rows_of
from serving.integrations.litellm.settings import OWN_GROUPS, LiteLLMSettings


class Instead:
    """Who answers while nobody decides, as a line of the log has it; `served` are the candidates with rows, once known."""

    def __init__(self, settings: LiteLLMSettings) -> None:
        self._settings = settings
        self.served: Sequence[str] = ()

    def said(self, reference: str | None) -> str:
        """The existing groups apart from the candidates' own: those are served as before whatever happens."""
        own = self._settings.group
        if reference is not None and (not self.served or reference in self.served):
            who = f"{reference} answers" if self.served else f"{reference} answers, or the first row where it has none"
        elif self.served:
            who = f"{self.served[0]}, its first row, answers (ROUTER_LITELLM_REFERENCE names another)"
        else:
            who = "its first row answers (ROUTER_LITELLM_REFERENCE names another)"
        kept = (
            f"calls of {', '.join(self._settings.groups)} are served as before, and " if self._settings.groups else ""
        )
        return f"{kept}of {own} {who}, or the next that the key may use"


class Standing:
    """Looks once at LiteLLM's Router, when it has models."""

    def __init__(self, settings: LiteLLMSettings, decider: object, complaints: Complaints) -> None:
        self._settings, self._complaints = settings, complaints
        self._instead: Instead | None = getattr(decider, "instead", None)
        self._looked = False

    def look(self, router: Any) -> None:
        """Says which groups of the settings it has not, and tells the decider whose rows are there."""
        if self._looked or not getattr(router, "model_names", None):
            return
        self._looked = True
        for wrong in strange_groups(self._settings, router):
            self._complaints.say(wrong, wrong)
        if self._instead is not None:
            self._instead.served = candidates_of(rows_of(router, self._settings.group))


def strange_groups(settings: LiteLLMSettings, router: Any) -> Iterator[str]:
    """What the settings name and LiteLLM's Router has not, a sentence each. It may have it later, from a database."""
    names = sorted({*router.model_names, *(getattr(router, "model_group_alias", None) or ())})
    for glob in settings.groups:
        if not _there(glob, names):
            near = meant(glob, [name for name in names if not settings.own(name)])
            yield f"ROUTER_LITELLM_GROUPS={glob}: LiteLLM has no such model group, so none of its calls is decided on{near}"
    group = settings.group
    needed = bool(settings.groups) or "group" in settings.model_fields_set
    if not _there(group, names) and (needed or not any(matches(name, OWN_GROUPS) for name in names)):
        near = meant(group, [name for name in names if not settings.existing(name)])
        yield f"ROUTER_LITELLM_GROUP={group}: LiteLLM has no such model group, so it has no rows of candidates{near}"


def _there(glob: str, names: Sequence[str]) -> bool:
    """Whether a group is meant by it; LiteLLM's own wildcards (`openai/*`) serve names that stand nowhere."""
    return any(matches(name, glob) or ("*" in name and matches(glob, name)) for name in names)
