"""The report's list of what the paper claims: which cells it compares, by which measure, and what it makes of it."""

from __future__ import annotations

from pathlib import Path

from scripts.reporting.claims import claims
from tests.grid_cells import context_of, said, table_of, write_cell


def test_claims_are_measured_between_the_cells_that_they_are_about(tmp_path: Path) -> None:
    for seed in (0, 1):
        above = seed / 10
        write_cell(tmp_path, "random", seed, [0.2, 0.3 + above, 0.4 + above], strategy="random")
        # At the end 0.03 below in one seed, 0.01 above in the other.
        write_cell(tmp_path, "entropy", seed, [0.2, 0.3, 0.37 + above * 1.4], strategy="entropy")
        # At the end 0.05 above in both, whatever was before.
        write_cell(tmp_path, "learning_loss", seed, [0.1, 0.1, 0.45 + above], strategy="learning_loss")
        # At the end 0.05 below that in both.
        write_cell(tmp_path, "tsp", seed, [0.2, 0.4, 0.4 + above])
        # Areas: 0.3 + 0.1 / 4 here, 0.3 + 0.1 / 2 without the mask score, 0.3 with the heavier weight, in both seeds.
        write_cell(tmp_path, "tsp + SSL", seed, [0.2, 0.3, 0.5])
        write_cell(tmp_path, "any name", seed, [0.2, 0.35, 0.5], ssl=True, score_parts="cb")
        write_cell(tmp_path, "another", seed, [0.2, 0.3, 0.4], ssl=True, beta=0.09)
        # No side of a claim: two things differ, or the second is another strategy.
        write_cell(tmp_path, "both", seed, [0.1, 0.1, 0.1], ssl=True, beta=0.05, score_parts="c")
        write_cell(tmp_path, "core_set + SSL", seed, [0.1, 0.1, 0.1], strategy="core_set")
    section = claims(context_of(tmp_path))
    found = {row[0]: row[1:] for row in table_of(section).rows}
    # -0.03 and 0.01, half of the interval 12.7062 * 0.02
    half = 12.7062 * 0.02
    assert found.pop("class entropy is about as good as random") == [
        "last AP50", f"-0.010 ({-0.01 - half:+.3f} to {-0.01 + half:+.3f})", "not told apart"
    ]  # fmt: skip
    assert found.pop("learning loss ends 0.009 above random") == [
        "last AP50", "+0.050 (+0.050 to +0.050)", "as it says"
    ]  # fmt: skip
    assert found.pop("TSP ends 0.010 above learning loss") == [
        "last AP50", "-0.050 (-0.050 to -0.050)", "the other way round"
    ]  # fmt: skip
    assert found.pop("the mask score helps, most of all")[1:] == ["-0.025 (-0.025 to -0.025)", "the other way round"]
    assert found.pop("β of 0.01 is better than 0.09")[1:] == ["+0.025 (+0.025 to +0.025)", "as it says"]
    assert set(found) == {
        "TSP + SSL is above random, by up to 0.10",
        "TSP + SSL ends above random",
        "pseudo labels help TSP",
    }


def test_equal_ones_that_differ_are_better_or_worse_and_one_pair_tells_nothing(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_cell(tmp_path, "random", seed, [0.2, 0.3], strategy="random")
        write_cell(tmp_path, "entropy", seed, [0.2, 0.4], strategy="entropy")
    write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.9])
    entropy, ours, last = table_of(claims(context_of(tmp_path))).rows
    assert entropy[2:] == ["+0.100 (+0.100 to +0.100)", "better"]
    assert ours[2:] == ["+0.300 (one pair)", "not told apart"] and last[2:] == ["+0.600 (one pair)", "not told apart"]


def test_without_both_sides_of_any_claim_it_is_said(tmp_path: Path) -> None:
    write_cell(tmp_path, "random", 0, [0.2, 0.3], strategy="random")
    write_cell(tmp_path, "core_set", 0, [0.2, 0.3], strategy="core_set")
    assert "no two finished cells" in said(claims(context_of(tmp_path)))
