"""Contestants timed in turns, and what a comparison of two of them says."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scripts.command_line import CommandError

SPEED_UP, COST = "speed-up", "cost"


@dataclass(frozen=True)
class Comparison:
    """One row: what ours takes beside what it is compared with.

    Attributes:
        title: what is done.
        ours, against: names of the two contestants.
        seconds: of each contestant, round by round; empty where the row could not be measured.
        measure: SPEED_UP: the ratio is against / ours, and more is better. COST: ours / against, and less is better.
        aim: the ratio to reach, None where the row only informs.
        note: why there is no number, or what to know about it.
        facts: other findings of the same measurement, JSON-able.
    """

    title: str
    ours: str
    against: str
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    measure: str = SPEED_UP
    aim: float | None = None
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """A ratio for each round: within a round both met the same machine."""
        if not self.seconds:
            return []
        pairs = zip(self.seconds[self.ours], self.seconds[self.against], strict=True)
        return [against / ours if self.measure == SPEED_UP else ours / against for ours, against in pairs]

    @property
    def ratio(self) -> float | None:
        """The median ratio; None where nothing was measured."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None without an aim or a ratio."""
        if self.ratio is None or self.aim is None:
            return None
        return self.ratio >= self.aim if self.measure == SPEED_UP else self.ratio <= self.aim

    def median(self, contestant: str) -> float:
        """Median seconds of a contestant."""
        return statistics.median(self.seconds[contestant])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the ratios written out for readers; `from_dict` gives the comparison back."""
        spread = [min(self.ratios), max(self.ratios)] if self.ratios else None
        return asdict(self) | {"ratio": self.ratio, "spread": spread, "met": self.met}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """The comparison that `to_dict` wrote."""
        return cls(**{name: value for name, value in values.items() if name in cls.__dataclass_fields__})


def in_turns(
    contestants: Mapping[str, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    step: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each contestant in each of `repeats` rounds.

    Every round runs every contestant once and begins with another one, so that a machine that becomes busy or hot is so
    for all of them. `warmup` rounds come before and are not counted; `step` is called after every single run.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            contestants[name]()
            if turn >= warmup:
                seconds[name].append(clock() - start)
            step()
    return seconds


@dataclass(frozen=True)
class Bench:
    """How everything is measured.

    Attributes:
        repeats: rounds of a measurement.
        threads: of torch, in this process and in the service.
        data: a folder of COCO folders, which may lack.
        smoke: tiny inputs, to see that everything runs and that results agree; the times mean nothing.
        cycle_pool: images in the pool of the comparison `cycle`.
        label: what stands before the progress bar, such as "[2/8]".
    """

    repeats: int
    threads: int
    data: Path
    smoke: bool = False
    cycle_pool: int = 300
    label: str = ""

    def measure(
        self, title: str, contestants: Mapping[str, Callable[[], object]], repeats: int | None = None, warmup: int = 1
    ) -> dict[str, list[float]]:
        """`in_turns` with a progress bar, which estimates the time left."""
        repeats = repeats or self.repeats
        torch.set_num_threads(self.threads)
        total = (repeats + warmup) * len(contestants)
        with tqdm(total=total, desc=f"{self.label} {title}", leave=False, dynamic_ncols=True) as bar:
            return in_turns(contestants, repeats, warmup, step=bar.update)


def require_agreement(agree: bool, what: str) -> None:
    """A comparison of things that do not do the same is none: CommandError unless they `agree`."""
    if not agree:
        raise CommandError(f"ours and theirs do not agree: {what}; nothing was compared.")
