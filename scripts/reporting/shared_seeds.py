"""Curves beside each other are means over the same seeds, so that a cell which is not finished tilts none of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.reporting import words
from scripts.reporting.lines import GridResults, Line
from scripts.reporting.page import Absent

MOST_NAMED = 4


@dataclass(frozen=True)
class SharedSeeds:
    """The lines of a picture, and the seeds that all its means are over.

    Attributes:
        seeds: those that every line which has finished any has finished. Where there is none, the one seed that most
            lines have begun.
    """

    grid: GridResults
    lines: tuple[Line, ...]
    seeds: tuple[int, ...]

    @staticmethod
    def of(grid: GridResults, lines: Sequence[Line]) -> SharedSeeds:
        finished = [set(grid.finished(line)) for line in lines if grid.finished(line)]
        seeds = set.intersection(*finished) if finished else set()
        if not seeds:
            begun = Counter(seed for line in lines for seed, run in line.runs.items() if run.rows)
            seeds = {min(begun, key=lambda seed: (-begun[seed], seed))} if begun else set()
        return SharedSeeds(grid, tuple(lines), tuple(sorted(seeds)))

    def cycles(self, line: Line) -> int:
        """How far all of the seeds have come in a line; 0 where one of them is missing."""
        return min((len(line.runs[seed].rows) if seed in line.runs else 0 for seed in self.seeds), default=0)

    def values(self, line: Line, cycle: int, read: Callable[[Mapping[str, Any]], float]) -> list[float]:
        """What `read` takes from each seed's row of a cycle that all have, from 1 on."""
        return [read(line.runs[seed].rows[cycle - 1]) for seed in self.seeds]

    def in_words(self, statistic: str = "mean") -> str:
        """Such as "mean over seeds 0, 1"."""
        return f"{statistic} over {_seeds(self.seeds)}" if len(self.seeds) > 1 else _seeds(self.seeds)

    def left_out(self) -> list[Absent]:
        """What the picture does not show of its lines, in a line; nothing where it shows all."""
        finished = {line.title: self.grid.finished(line) for line in self.lines}
        come = {line.title: self.cycles(line) for line in self.lines}
        said = [
            f"seed {seed}, not finished by {_several([title for title, runs in finished.items() if seed not in runs])}"
            for seed in self.grid.seeds
            if seed not in self.seeds
        ]
        missing = [title for title, cycles in come.items() if not cycles]
        said += [f"{_several(missing)}, without a cycle of {_seeds(self.seeds)}"] if missing else []
        short = [f"{title} after cycle {cycles}" for title, cycles in come.items() if 0 < cycles < self.grid.cycles]
        said += [f"{_several(short)}, not finished (hollow points)"] if short else []
        return [Absent(f"{'; '.join(said)}. All means of this picture are over the same seeds.")] if said else []

    @property
    def note(self) -> str:
        """What a table of finished cells has to say of its means, where a seed is not shared; else nothing."""
        if set(self.seeds) == set(self.grid.seeds):
            return ""
        return f" Means are over {_seeds(self.seeds)}, so that all are over the same."


def _several(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {words.many(more, 'more line')}" if more > 0 else "")


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"
