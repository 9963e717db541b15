"""The arithmetic of scripts.speed.agreement, by hand, and its levers in order."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.speed.agreement import agrees, levers, overlap
from scripts.speed.learning import QUICK, REFERENCE, differences
from scripts.speed.learning import table as learning_table
from scripts.stats import spearman
from tsp_model import execution
from tsp_model.execution import Execution
from tsp_model.settings import Settings

REPOSITORY = Path(__file__).parents[1]


def test_spearman_by_hand() -> None:
    # differences of ranks 0, 1, -1, 0: 1 - 6 * 2 / (4 * 15) = 0.8
    assert spearman(np.array([1.0, 5.0, 2.0, 9.0]), np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(0.8)
    assert spearman(np.arange(5), np.arange(5) ** 3) == pytest.approx(1)
    assert spearman(np.arange(5), -np.arange(5)) == pytest.approx(-1)


def test_ties_share_their_rank() -> None:
    # ranks 1.5 1.5 3 with 1 2 3: covariance 1.5, variances 1.5 and 2
    assert spearman(np.array([0.0, 0.0, 1.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(1.5 / np.sqrt(1.5 * 2))


def test_overlap_counts_the_lowest_of_both() -> None:
    assert overlap(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.3, 0.1, 0.2, 0.4]), 2) == 0.5
    assert overlap(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.2, 0.1, 0.3, 0.4]), 2) == 1


def test_what_is_shipped_is_one_of_the_levers(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for quick in (True, False):
        monkeypatch.setattr(execution, "_quick_bfloat16", lambda device, quick=quick: quick)
        steps = list(levers("resnet50", cpu))
        assert steps[0][1] == Execution(cpu)
        shipped = [name for name, how, proposals in steps if how == Execution.choose(Settings(), cpu)]
        assert len(shipped) == 1
        assert ("score heads" in shipped[0]) == quick
        assert [proposals for *_, proposals in steps] == [None, None, None, None, None, 300]
        assert len(list(levers("tiny", cpu))) == 5


def test_a_quicker_way_agrees_by_order_picks_and_ap50() -> None:
    reference = {"mask_ap50": 0.5, "box_ap50": 0.6, "spearman": 1.0, "overlap": 1.0}
    assert agrees(reference, reference)
    assert agrees({"mask_ap50": 0.49, "box_ap50": 0.7, "spearman": 0.991, "overlap": 0.95}, reference)
    for worse in ({"spearman": 0.989}, {"overlap": 0.9}, {"mask_ap50": 0.47}, {"box_ap50": 0.57}):
        assert not agrees(reference | worse, reference)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["agreement", "learning"])
def test_the_comparisons_on_trained_weights_run(module: str, tmp_path: Path) -> None:
    command = [
        "-m",
        "scripts.benchmark",
        module,
        "--sets",
        "synthetic",
        "--backbones",
        "tiny",
        "--folder",
        str(tmp_path),
    ]
    command += ["--labels", "8", "--epochs", "1", "--size", "64", "--threads", "1", "--pool", "12", "--test", "6"]
    results = []
    for _ in range(2):  # the second time with the networks of the first
        done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        (result,) = json.loads((tmp_path / f"{module}.json").read_text())["results"]
        results.append(result)
        assert len(result["rows"]) == (5 if module == "agreement" else 3)
        assert "synthetic, tiny at 64 px, 8 labels, 1 epochs" in done.stdout
    if module == "agreement":
        assert all(row["agrees"] for row in result["rows"][:3]), "only the order of sums differs"
    else:
        assert results[0] == results[1], "seconds of training included: nothing was trained again"


def test_learning_is_compared_seed_by_seed() -> None:
    rows = [
        {"seed": seed} | {way: {"mask_ap50": value, "box_ap50": 0.2, "train_seconds": 1.0} for way, value in found}
        for seed, found in enumerate(
            zip((REFERENCE, QUICK), pair, strict=True) for pair in ((0.5, 0.52), (0.4, 0.38), (0.3, 0.36))
        )
    ]
    assert differences(rows, "mask_ap50") == pytest.approx([0.02, -0.02, 0.06])
    # deviations with N - 1: sqrt((0 + 0.04^2 + 0.04^2) / 2) of the differences, 0.1 of 0.5, 0.4, 0.3
    said = learning_table([{"case": "hand-made", "rows": rows}])
    assert "mask_ap50 +0.020 ± 0.040, box_ap50 +0.000 ± 0.000" in said
    assert "float32 over the seeds: mask_ap50 ± 0.100" in said
