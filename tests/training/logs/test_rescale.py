"""Grades on a scale that they are not read on: an error that names the rule, never rows that are left out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import router_train_here
from training.logs.outcomes import OutcomeError
from training.logs.sources import reading
from training.logs.sources.importer import ImportOptions
from training.logs.sources.mapped import parse_mapping


def table(path: Path, grades: list[object], name: str = "quality") -> Path:
    rows = [
        {"request_id": f"r{n}", "prompt": f"p{n}", "candidate": "ab"[n % 2], name: one} for n, one in enumerate(grades)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("grades", "rule"),
    [
        ([1, 2, 3, 4, 5], "stars"),
        ([4, 5, 4.5, 3], "stars"),
        ([2, 9, 10, 7], "ten"),
        ([0, 9, 10, 7], "minmax:0:10"),
        ([0, 1, 2, 3, 4, 5], "minmax:0:5"),
        ([0, 55, 80.5, 100], "percent"),
        ([-1, 1, -1, 1], "minmax:-1:1"),
    ],
)
def test_a_scale_that_does_not_fit_is_named(tmp_path: Path, grades: list[object], rule: str) -> None:
    log = table(tmp_path / "log.csv", grades * 20)
    with pytest.raises(
        OutcomeError, match=rf"that looks like {rule}\..* Say which scale it is: --map quality=COLUMN:RULE"
    ):
        reading.read([log])
    read = reading.read([log], options=ImportOptions(mapping=parse_mapping([f"quality=quality:{rule}"])))
    assert len(read.frame) == len(grades) * 20
    assert read.frame["quality"].between(0, 1).all()


def test_it_counts_the_rows(tmp_path: Path) -> None:
    log = table(tmp_path / "log.csv", [1, *[2, 3, 4, 5] * 50])
    with pytest.raises(
        OutcomeError, match=r"log\.csv: 200 of 201 grades are off the scale .* from 1 to 5: that looks like stars"
    ):
        reading.read([log])


def test_of_an_unknown_scale_both_ends_are_asked_for(tmp_path: Path) -> None:
    log = table(tmp_path / "log.csv", [-20, 300, 20] * 20)
    with pytest.raises(OutcomeError, match=r"if 300 is the best, that is minmax:-20:300, and minmax:300:-20 if it is"):
        reading.read([log])


def test_a_rule_that_does_not_fit_is_an_error_too(tmp_path: Path) -> None:
    log = table(tmp_path / "log.csv", [*range(11)] * 10)
    with pytest.raises(OutcomeError, match=r"60 of 110 grades are off the scale of stars, as 0, 6, 7, 8, 9\. Say"):
        reading.read([log], options=ImportOptions(mapping=parse_mapping(["quality=quality:stars"])))


def test_slips_of_the_pen_are_rows_that_are_left_out(tmp_path: Path) -> None:
    log = table(tmp_path / "log.csv", [0, 1, 0.5, 1, 1, 1, 1, 1, 1, 1, 1.5, 7, ""] * 10)
    read = reading.read([log])
    assert read.reasons == {"quality outside [0, 1]": 20}
    two = reading.read([table(tmp_path / "two.csv", [1, 5, 5])])
    assert len(two.frame) == 1


def test_errors_are_no_grades(tmp_path: Path) -> None:
    log = table(tmp_path / "log.csv", [3, 4, 5])
    failed = pd.DataFrame(
        [{"request_id": f"e{n}", "prompt": "p", "candidate": "a", "status": "error"} for n in range(90)]
    )
    pd.concat([pd.read_csv(log), failed]).to_csv(log, index=False)
    with pytest.raises(OutcomeError, match="3 of 3 grades"):
        reading.read([log])


def by(path: Path, rule: str) -> pd.DataFrame:
    return reading.read([path], options=ImportOptions(mapping=parse_mapping([f"quality=quality:{rule}"]))).frame


def test_an_error_has_no_grade_to_fit_a_rule(tmp_path: Path) -> None:
    log = table(tmp_path / "log.csv", [1, 2, 3, 4, 5] * 4)
    for grade in (0, -1, "n/a"):
        failed = [
            {"request_id": f"e{n}", "prompt": "p", "candidate": "a", "status": 500, "quality": grade} for n in range(10)
        ]
        both = pd.concat([pd.read_csv(log), pd.DataFrame(failed)])
        both.to_csv(tmp_path / "both.csv", index=False)
        frame = by(tmp_path / "both.csv", "stars")
        assert len(frame) == 30
        assert (frame.loc[frame["status"] == "error", "quality"] == 0).all()


def test_the_worst_of_five_is_never_the_best_of_one(tmp_path: Path) -> None:
    """Few are off the scale of 0 to 1, but those within are all 1."""
    with pytest.raises(OutcomeError, match="that looks like stars"):
        reading.read([table(tmp_path / "log.csv", [*[1] * 81, *[2] * 10, *[3] * 5, *[5] * 4])])


def test_a_file_of_another_scale_is_not_hidden_by_the_others_nor_by_being_small(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", [0, 1, 0.5] * 40)
    table(tmp_path / "b.csv", [1, 2, 3, 4, 5] * 4)
    with pytest.raises(OutcomeError, match=r"b\.csv: 16 of 20"):
        reading.read([tmp_path])
    small = [table(tmp_path / f"s{n}.csv", [5, 1]) for n in range(6)]
    with pytest.raises(OutcomeError, match="the 6 sources together: 6 of 12"):
        reading.read(small)


def test_words_that_a_scale_does_not_have_are_off_it(tmp_path: Path) -> None:
    with pytest.raises(OutcomeError, match=r"10 of 20 grades are off .* as 80%, 90%\. Say which"):
        reading.read([table(tmp_path / "log.csv", ["80%", "90%", "1", "0"] * 5)])
    with pytest.raises(OutcomeError, match="15 of 20 grades are off the scale of categorical:good=1,bad=0, as ok"):
        by(table(tmp_path / "words.csv", ["good", "ok", "ok", "ok"] * 5), "categorical:good=1,bad=0")
    frame = by(table(tmp_path / "thumbs.csv", ["up", "down", "neutral"] * 5), "thumbs")
    assert frame["quality"].isna().sum() == 5, "no opinion is not judged"


def test_a_grade_for_not_judged_is_said_to_be_perhaps_that(tmp_path: Path) -> None:
    with pytest.raises(OutcomeError, match="If it stands for not judged, leave it empty"):
        reading.read([table(tmp_path / "log.csv", [-1, 0.5] * 20)])


def test_scores_that_do_not_fit_their_rule_are_an_error(tmp_path: Path) -> None:
    log = table(tmp_path / "log.csv", [""] * 100)
    scores = pd.DataFrame({"request_id": [f"r{n}" for n in range(100)], "score": [1] * 60 + [4] * 40})
    scores.to_csv(tmp_path / "scores.csv", index=False)
    done = router_train_here("inspect", "--data", log, "--scores", tmp_path / "scores.csv")
    assert done.returncode == 2
    assert "40 judgements do not fit the rule unit" in " ".join(done.stderr.split())


@pytest.mark.parametrize("command", ["inspect", "run", "import"])
def test_the_commands_say_it(tmp_path: Path, command: str) -> None:
    log = table(tmp_path / "log.csv", [1, 2, 3, 4, 5] * 20, "grade")
    out = ["--out", tmp_path / "out"] if command != "inspect" else []
    done = router_train_here(command, "--data", log, "--map", "quality=grade", *out)
    assert done.returncode == 2
    assert "80 of 100 grades are off the scale" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
