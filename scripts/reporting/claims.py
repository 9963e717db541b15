"""What arXiv 2012.04829 says of its comparison (Fig. 2, Fig. 4 and the text on them), beside what a grid shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scripts.reporting import words
from scripts.reporting.context import Context
from scripts.reporting.curves import areas, finals
from scripts.reporting.lines import GridResults, Line
from scripts.reporting.page import Absent, Section, Table, Text
from scripts.stats import PairedDifference, paired_difference

Score = Callable[[GridResults, Line], Mapping[int, float]]
Asked = tuple[str, bool, dict[str, Any]]  # strategy, with pseudo labels, settings
AREA, LAST = "area", "last AP50"
SCORES: dict[str, Score] = {AREA: areas, LAST: finals}


@dataclass(frozen=True)
class Claim:
    """That `more` is better than `less`, or as good.

    Attributes:
        measure: AREA under the learning curve or LAST AP50, whichever the paper's sentence is about.
        equal: they are said to be about equally good.
    """

    says: str
    more: Asked
    less: Asked
    measure: str = AREA
    equal: bool = False


def _method(**own: Any) -> Asked:
    return "tsp", True, own


def _labels_alone(strategy: str) -> Asked:
    return strategy, False, {}


CLAIMS = (
    Claim(
        "class entropy is about as good as random", _labels_alone("entropy"), _labels_alone("random"), LAST, equal=True
    ),
    Claim("learning loss ends 0.009 above random", _labels_alone("learning_loss"), _labels_alone("random"), LAST),
    Claim("TSP ends 0.010 above learning loss", _labels_alone("tsp"), _labels_alone("learning_loss"), LAST),
    Claim("TSP + SSL is above random, by up to 0.10", _method(), _labels_alone("random")),
    Claim("TSP + SSL ends above random", _method(), _labels_alone("random"), LAST),
    Claim("pseudo labels help TSP", _method(), _labels_alone("tsp")),
    Claim("TSP ranks better than random beside pseudo labels", _method(), ("random", True, {})),
    Claim("TSP ranks better than class entropy beside pseudo labels", _method(), ("entropy", True, {})),
    Claim("β of 0.01 is better than 0.05", _method(beta=0.01), _method(beta=0.05)),
    Claim("β of 0.01 is better than 0.09", _method(beta=0.01), _method(beta=0.09)),
    Claim("the mask score helps, most of all", _method(score_parts="cbm"), _method(score_parts="cb")),
    Claim("the box score helps", _method(score_parts="cbm"), _method(score_parts="cm")),
    Claim("all three scores are better than the class score", _method(score_parts="cbm"), _method(score_parts="c")),
)


def claims(context: Context) -> Section:
    """A row for each claim that the grid has both sides of."""
    grid = context.grid
    rows = [
        [claim.says, claim.measure, words.difference(found), verdict(claim, found)]
        for claim in CLAIMS
        if (found := measured(grid, claim)) is not None
    ]
    title = "What the paper says"
    if not rows:
        return Section(title, [Absent("the paper's claims; no two finished cells are the sides of one.")])
    caption = (
        "The paper's claims (head CT and retinal OCT, R50) and the difference here, paired by seed, in brackets its "
        "95% interval."
    )
    about = "Not told apart: the interval holds zero, or there is one seed. More seeds may tell them apart."
    if grid.plain("learning_loss", False) is not None:
        about += (
            " Learning loss trains another network and begins with another model: compare the gains since M_1, too."
        )
    return Section(title, [Table(caption, ["the paper says", "by", "difference here", "verdict"], rows), Text(about)])


def measured(grid: GridResults, claim: Claim) -> PairedDifference | None:
    """The better side less the other; None where a side is not there or no seed has finished both."""
    more, less = (grid.plain(strategy, ssl, **own) for strategy, ssl, own in (claim.more, claim.less))
    if more is None or less is None:
        return None
    score = SCORES[claim.measure]
    return paired_difference(score(grid, more), score(grid, less))


def verdict(claim: Claim, found: PairedDifference) -> str:
    """What the difference says of the claim."""
    if not found.clear_of_zero:
        return "not told apart"
    if claim.equal:
        return "better" if found.mean > 0 else "worse"
    return "as it says" if found.mean > 0 else "the other way round"
