"""Parameters: the defaults load, overrides reach their field with its type, and whatever is wrong is named."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import DEFAULTS, ConfigError, Params, load_params


def edited(folder: Path, old: str, new: str) -> Path:
    """The defaults with one piece of text replaced, as a file."""
    text = DEFAULTS.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} is in params.toml {text.count(old)} times"
    path = folder / "params.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def test_the_defaults_load_and_are_frozen() -> None:
    params = load_params()
    assert isinstance(params, Params)
    assert params.policy.quality_target == 0.95
    assert params.policy.quality_target in params.policy.targets
    assert params.split.train + params.split.calibration < 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.label.acceptable = 0.5  # type: ignore[misc]


def test_every_stage_and_key_is_in_flat() -> None:
    flat = load_params().flat()
    assert flat["label.acceptable"] == 0.75
    assert flat["policy.targets"] == (0.99, 0.975, 0.95, 0.9)
    stages = dataclasses.fields(Params)
    assert {name.split(".")[0] for name in flat} == {stage.name for stage in stages}
    assert all(type(value) in (bool, int, float, str, tuple) for value in flat.values())


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("fit.folds=3", 3),
        ("label.acceptable=0.5", 0.5),
        ("label.acceptable=1", 1.0),  # a whole number where a float is wanted
        ("label.acceptable=1e-3", 0.001),
        ("policy.reference=claude-opus-5-5", "claude-opus-5-5"),
        ('policy.reference="quoted"', "quoted"),
        ("embed.source=/models/some folder", "/models/some folder"),
        ("tracking.uri=sqlite:///a=b.db", "sqlite:///a=b.db"),
        ("embed.encoder=transformer", "transformer"),
        ("policy.targets=0.9,0.8", (0.9, 0.8)),
        ("policy.targets=[0.9, 1]", (0.9, 1.0)),
        ("policy.targets=0.9", (0.9,)),
        ("fit.estimators=logistic, workflow-table", ("logistic", "workflow-table")),
        ('fit.estimators=["logistic"]', ("logistic",)),
        ("simulate.candidates=qwen3.5-9b,gpt-6-luna", ("qwen3.5-9b", "gpt-6-luna")),
        ("  fit.seed = 7 ", 7),
    ],
)
def test_an_override_of_each_type(override: str, value: Any) -> None:
    found = load_params(overrides=[override]).flat()[override.partition("=")[0].strip()]
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_counts_and_the_rest_stays() -> None:
    params = load_params(overrides=["fit.folds=3", "fit.folds=4", "split.seed=9"])
    assert (params.fit.folds, params.split.seed) == (4, 9)
    changed = {"fit.folds", "split.seed"}
    before = load_params().flat()
    assert {name: value for name, value in params.flat().items() if name not in changed} == {
        name: value for name, value in before.items() if name not in changed
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.folds", r"--set 'fit\.folds': expected stage\.key=value"),
        ("folds=3", r"--set 'folds=3': expected stage\.key=value"),
        ("fti.folds=3", r"fti\.folds=3: 'fti' is no stage; did you mean fit\? there are simulate, split, "),
        ("fit.fold=3", r"fit\.fold=3: 'fold' is no parameter of fit; did you mean folds\? there are estimators, "),
        ("fit.folds=three", r"--set fit\.folds=three: fit\.folds is 'three'; it has to be a valid integer"),
        ("fit.folds=3.5", r"fit\.folds is 3\.5; it has to be a valid integer"),
        ("fit.folds=true", r"fit\.folds is True; it has to be a valid integer"),
        ("label.acceptable=true", r"label\.acceptable is True; it has to be a valid number"),
        ("label.acceptable=", r"label\.acceptable is ''; it has to be a valid number"),
        ("tracking.model=7", r"tracking\.model is 7; it has to be a valid string"),
        ("embed.encoder=lstm", r"embed\.encoder is 'lstm'; it has to be 'auto', 'static' or 'transformer'"),
        ("policy.targets=high", r"policy\.targets is 'high'; it has to be a valid number"),
        ('policy.targets=["high"]', r"policy\.targets is 'high'; it has to be a valid number"),
        ("fit.estimators=[1]", r"fit\.estimators is 1; it has to be a valid string"),
    ],
)
def test_an_override_that_cannot_be(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_params(overrides=[override])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[label]", "[labels]", r"params\.toml: 'labels' is no stage; did you mean label\? there are simulate"),
        ("[label]\nacceptable = 0.75", "[split.more]\nacceptable = 0.75", r"params\.toml: no \[label\] table"),
        (
            "acceptable = 0.75",
            "accept = 0.75",
            r"label: 'accept' is no parameter; did you mean acceptable\? there are acceptable",
        ),
        ("folds = 5\n", "", r"params\.toml: fit: folds is missing"),
        ("folds = 5", 'folds = "5"', r"params\.toml: fit\.folds is '5'; it has to be a valid integer"),
        ('encoder = "static"', 'encoder = "Static"', r"embed\.encoder is 'Static'; it has to be 'auto',"),
        ("targets = [0.99, 0.975, 0.95, 0.9]", "targets = 0.9", r"policy\.targets is 0\.9; it has to be a list"),
        ("folds = 5", "folds = ", r"params\.toml: Invalid value"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_params(edited(tmp_path, old, new))


def test_a_stage_that_is_no_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.toml"
    path.write_text("label = 0.75\n", encoding="utf-8")
    for overrides in ([], ["label.acceptable=0.5"]):
        with pytest.raises(ConfigError, match=r"params\.toml: label is 0\.75; it has to be a table"):
            load_params(path, overrides)


def test_a_missing_file_a_folder_and_one_that_is_not_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: .*No such file"):
        load_params(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="directory"):
        load_params(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml: "):
        load_params(tmp_path / "binary.toml")


def test_an_override_may_supply_what_the_file_lacks(tmp_path: Path) -> None:
    path = edited(tmp_path, "[label]\nacceptable = 0.75", "")
    assert load_params(path, ["label.acceptable=0.6"]).label.acceptable == 0.6


@settings(deadline=None)
@given(st.floats(0.0, 1.0), st.integers(-(2**60), 2**60))
def test_numbers_come_back_as_they_were_given(fraction: float, whole: int) -> None:
    params = load_params(overrides=[f"label.acceptable={fraction}", f"fit.seed={whole}"])
    assert params.label.acceptable == fraction
    assert params.fit.seed == whole


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_override_is_either_taken_or_explained(text: str) -> None:
    for override in (text, f"policy.reference={text}", f"fit.folds={text}", f"fit.estimators={text}"):
        with suppress(ConfigError):  # anything else that is raised fails the test
            assert isinstance(load_params(overrides=[override]), Params)


@pytest.mark.parametrize(
    "override", ["policy.knob_steps=1", "policy.delta=0.0", "policy.quality_target=1.5", "fit.folds=1"]
)
def test_a_number_out_of_its_range_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0] + r".* has to lie between"):
        load_params(overrides=[override])
