"""Heads that are fitted as an earlier run selected them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.training.learn.heads.test_select import FACTORIES, training
from training.learn.estimators.base import Estimator
from training.learn.estimators.blend import Blend
from training.learn.heads.calibrate import Uncalibrated
from training.learn.heads.chosen import HeadChoice, fit_chosen


class Nowhere:
    """Stands for an engine on which no fold may be fitted."""

    def map(self, *_: object, **__: object) -> list[object]:
        raise AssertionError("something was fitted out of fold")


@pytest.mark.parametrize("members", [{"logistic": 1.0}, {"logistic": 0.25, "workflow-table": 0.75}])
def test_what_is_not_calibrated_is_fitted_once(members: dict[str, float]) -> None:
    data = training()
    factories: dict[str, Callable[[], Estimator]] = dict(FACTORIES)
    choice = HeadChoice(members, Uncalibrated.name, "AIQ")
    head = fit_chosen(data, factories, choice, Nowhere())  # type: ignore[arg-type]
    made = factories["logistic"]() if len(members) == 1 else Blend(factories, members)
    alone = made.fit(data.inputs, *data.taught())
    assert np.array_equal(head.estimator.predict(data.inputs), alone.predict(data.inputs))
    assert isinstance(head.calibrator, Uncalibrated)
    assert head.scores == ()
    assert head.name == ("logistic" if len(members) == 1 else Blend.name)


def test_what_is_calibrated_is_fitted_out_of_fold_for_it() -> None:
    choice = HeadChoice({"logistic": 1.0}, "sigmoid", "AIQ")
    with pytest.raises(AssertionError, match="out of fold"):
        fit_chosen(training(), FACTORIES, choice, Nowhere())  # type: ignore[arg-type]
    head = fit_chosen(training(), FACTORIES, choice)
    assert head.calibrator.name == "sigmoid"
    assert [score.name for score in head.scores] == ["logistic"]
