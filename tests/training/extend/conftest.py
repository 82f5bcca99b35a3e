"""One champion for all tests of the room: it takes seconds to train, and none of them changes it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.decide.router import Router
from tests.conftest import ROOT
from tests.training.extend import world
from training.config import Params
from training.extend.extend import Added, Asked, add, ask
from training.extend.plan import plan_of
from training.logs.outcomes import Outcomes
from training.replay.pairs import PlanFile
from training.run import train
from training.simulation.simulate import SimulatedLog


@dataclass(frozen=True)
class World:
    """The log, the champion's folder and cache, the plan, and the log with its answers."""

    log: SimulatedLog
    params: Params
    models: Path
    cache: Path
    plan: PlanFile
    answered: Outcomes

    def copied(self, folder: Path) -> Path:
        """The champion in a folder of its own, where bundles may be added."""
        shutil.copytree(self.models, folder, symlinks=True)
        return folder

    def ask(self, table: Outcomes, models: Path, name: str = world.NEW, params: Params | None = None) -> Asked:
        return ask(table, name, params or self.params, world.prices(), out=models, cache=self.cache)


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("extend")
    cache = folder / "cache"
    cache.mkdir()
    encoders = ROOT / ".cache" / "encoders"
    encoders.mkdir(parents=True, exist_ok=True)
    (cache / "encoders").symlink_to(encoders.resolve())
    log, params, models = world.simulated(), world.settings(), folder / "models"
    before = world.table(world.others(log))
    train(before, params, world.prices(), out=models, cache=cache)
    asked = ask(before, world.NEW, params, world.prices(), out=models, cache=cache)
    plan = plan_of(asked, params, count=120, budget_usd=3.0)
    return World(log, params, models, cache, plan, world.together(log, world.answers(log, plan)))


@dataclass(frozen=True)
class Extended:
    """The champion before, what was added, and the folder of both."""

    models: Path
    champion: Router
    added: Added
    router: Router


@pytest.fixture(scope="package")
def extended(made: World, tmp_path_factory: pytest.TempPathFactory) -> Extended:
    models = made.copied(tmp_path_factory.mktemp("added") / "models")
    champion = Router.load(models / "current")
    added = add(made.ask(made.answered, models), made.params)
    return Extended(models, champion, added, Router.load(added.bundle.folder))
