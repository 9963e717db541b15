"""scripts.benchmark: what it times, how it counts, and that every comparison runs and agrees on tiny inputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts import benchmark
from scripts.backend_process import REPOSITORY
from scripts.command_line import CommandError
from scripts.speed import report
from scripts.speed.timing import COST, Comparison, in_turns, require_agreement


class Clock:
    """A clock that moves only when a contestant works; it remembers who did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contestant(self, name: str, *seconds: float) -> Callable[[], None]:
        """Works so many seconds, one after the other."""
        left = iter(seconds)

        def work() -> None:
            self.order.append(name)
            self.now += next(left)

        return work


def test_contestants_take_turns_and_the_warm_up_does_not_count() -> None:
    clock = Clock()
    contestants = {"a": clock.contestant("a", 9, 1, 2), "b": clock.contestant("b", 99, 10, 20)}
    steps: list[int] = []
    found = in_turns(contestants, repeats=2, warmup=1, clock=clock, step=lambda: steps.append(1))
    assert found == {"a": [1, 2], "b": [10, 20]}
    assert clock.order == ["a", "b", "b", "a", "a", "b"]  # each round begins with another one
    assert len(steps) == 6


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    # Medians of the seconds would say 4; within the rounds it is 8, 4 and 2.
    seconds = {"ours": [1, 2, 4], "theirs": [8, 8, 8]}
    row = Comparison("x", "ours", "theirs", seconds, aim=4.5)
    assert row.ratios == [8, 4, 2]
    assert (row.ratio, row.met) == (4, False)
    assert Comparison("x", "ours", "theirs", seconds, aim=4).met
    assert Comparison("x", "ours", "theirs", {"ours": [1, 1, 3], "theirs": [2, 2, 2]}).ratio == 2


def test_a_cost_is_the_other_way_round() -> None:
    row = Comparison("x", "with", "without", {"with": [3, 6], "without": [2, 4]}, COST, aim=1.5)
    assert (row.ratio, row.met) == (1.5, True)
    assert Comparison("x", "with", "without", {"with": [3], "without": [2]}, COST, aim=1.4).met is False


def test_a_row_without_times_says_why_and_meets_nothing() -> None:
    row = Comparison("x", "ours", "theirs", aim=3, note="it is absent")
    assert (row.ratio, row.met) == (None, None)
    assert "it is absent" in report.line(row)
    assert "- x: it is absent" in report.table([row])


def test_rows_come_back_from_json() -> None:
    row = Comparison("x", "with", "without", {"with": [3.5], "without": [2.0]}, COST, 1.2, "a note", {"n": 1})
    values = json.loads(json.dumps(row.to_dict()))
    assert Comparison.from_dict(values) == row
    assert (values["ratio"], values["spread"], values["met"]) == (1.75, [1.75, 1.75], False)


def test_the_table_shows_medians_ratio_spread_and_aim() -> None:
    rows = [
        Comparison("speed", "ours", "stock", {"ours": [1, 2], "stock": [4, 4]}, aim=2),
        Comparison("cost", "ours", "alone", {"ours": [0.003], "alone": [0.002]}, COST, aim=1.2),
    ]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.table(rows).splitlines()]
    assert cells[2] == ["speed", "ours 1.5 s", "stock 4 s", "3.00x as fast", "2.00 to 4.00", "at least 2x", "yes"]
    assert cells[3] == ["cost", "ours 3 ms", "alone 2 ms", "1.50x as long", "1.50 to 1.50", "at most 1.2x", "no"]


def test_what_does_not_agree_is_not_compared() -> None:
    require_agreement(True, "fine")
    with pytest.raises(CommandError, match="codes of masks"):
        require_agreement(False, "codes of masks")


def test_only_picks_in_the_order_of_the_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmark._chosen("codec, inference", everything=False) == ["inference", "codec"]
    assert "cycle" not in benchmark._chosen(None, everything=False)
    assert "cycle" in benchmark._chosen(None, everything=True)
    with pytest.raises(CommandError, match="known: inference"):
        benchmark._chosen(",", everything=False)


def speed(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.benchmark", "speed", "--smoke", "--threads", "1", "--out", str(out)]
    return subprocess.run(
        [*command, *arguments], cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True
    )


def test_an_unknown_comparison_is_one_line(tmp_path: Path) -> None:
    done = speed(tmp_path / "speed.json", "--only", "codec,nonsense")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert all(name in done.stderr for name in ("nonsense", "codec", "inference"))
    assert not (tmp_path / "speed.json").exists()


def test_a_folder_of_data_that_was_asked_for_has_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("speed", "agreement"):
        monkeypatch.setattr(sys, "argv", ["benchmark", command, "--data", str(tmp_path / "none")])
        with pytest.raises(SystemExit) as left:
            benchmark.main()
        assert left.value.code == 2
        assert f"--data: there is no folder {tmp_path / 'none'}" in capsys.readouterr().err


def rows(done: subprocess.CompletedProcess[str], out: Path) -> dict[str, dict[str, Any]]:
    """The rows of a run that ended well, by title and opponent; each also stands in the table."""
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(out.read_text())
    assert document["smoke"] and document["machine"]["threads"] == 1
    found = {f"{row['title']}/{row['against']}": row for row in document["comparisons"]}
    assert len(found) == len(document["comparisons"])
    assert all(row["title"] in done.stdout for row in found.values())
    return found


@pytest.mark.slow
def test_the_network_rows_run_and_agree(tmp_path: Path) -> None:
    out, markdown = tmp_path / "speed.json", tmp_path / "speed.md"
    only = "inference,branches,uncertainty,training,levers,codec,evaluation,start"
    done = speed(out, "--only", only, "--data", str(tmp_path), "--markdown", str(markdown))
    found = rows(done, out)
    measured = {title for title, row in found.items() if row["ratio"] is not None}
    # What may lack is the real data, AMX and pycocotools, and then the row says so.
    excuses = ("give --data", "no AMX", "requirements-benchmark.txt")
    for title in set(found) - measured:
        assert any(excuse in found[title]["note"] for excuse in excuses), found[title]
    for words in (
        "batch 2/stock float32",
        "batch 2/without",
        "whole passes",
        "training step, R50 at 64, batch 2/stock float32",
        "norms on their own/as shipped",
        "freed memory goes back to the kernel/as shipped",
        "ragged masks: COCO RLE to region",
        "ragged masks: region to COCO RLE",
    ):
        assert any(words in title for title in measured), words
    assert markdown.read_text() == done.stdout


@pytest.mark.slow
def test_the_server_rows_run_and_agree(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    found = rows(speed(out, "--only", "predict,threads,cycle"), out)
    assert all(row["ratio"] > 0 for row in found.values())
    kinds = ["/predict", "scoring", "scoring", "scoring", "5 pages", "5 predictions", "cycle", "cycle"]
    assert all(title.startswith(kind) for title, kind in zip(found, kinds, strict=True)), list(found)
    cycles = [row for row in found.values() if row["title"].startswith("cycle")]
    for row in cycles:
        (whole,), parts = row["seconds"]["whole cycle"], ("pull", "train", "score", "push", "switch", "between steps")
        assert sum(row["seconds"][part][0] for part in parts) == pytest.approx(whole)
