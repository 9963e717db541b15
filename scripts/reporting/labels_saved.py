"""The first page: what the method saves, in sentences and in the table that a manager reads."""

from __future__ import annotations

from scripts.reporting import words
from scripts.reporting.context import Context
from scripts.reporting.curves import Overtaking, Reached, areas, finals, overtaking, reached
from scripts.reporting.lines import GridResults, Line
from scripts.reporting.page import Absent, Part, Section, Sentences, Table, Text
from scripts.reporting.shared_seeds import SharedSeeds
from scripts.stats import PairedDifference, Spread, paired_difference

SHARES = (0.8, 0.9, 0.95)  # of the full-data AP50
BOUND_ONLY = "a bound that leaves open which is better"


def labels_saved(context: Context) -> Section:
    """Sentences with numbers, then labels, images, minutes and money by strategy."""
    grid = context.grid
    parts: list[Part] = [Sentences(_sentences(context)), Text(_how(context))]
    if grid.ceiling_ap50 is None:
        parts.append(Absent("shares of the full-data AP50; no cell trained on all labels (full_data = true) is there."))
    elif not grid.ceiling_ap50:
        parts.append(Absent("shares of the full-data AP50; that is 0, nothing was learned."))
    if grid.random is None:
        parts.append(Absent("what is saved against random; the grid has no random cells without pseudo labels."))
    if not grid.ceiling_ap50 and grid.random is None:
        return Section("What the labels buy", parts)
    return Section("What the labels buy", [*parts, _table(context)])


def _sentences(context: Context) -> list[str]:
    grid, method, random = context.grid, context.grid.method, context.grid.random
    if method is None:
        return ["The grid has no plain TSP cells; the tables below compare what it has."]
    said = []
    if not grid.finished(method):
        said.append(f"{method.title} has not finished a single seed; numbers below are of the cells that have.")
    shared = SharedSeeds.of(grid, grid.strategies)
    if random is not None:
        found = overtaking(grid, method, random, shared.seeds)
        said += [_on_overtaking(method, found, grid), _on_area(grid, method, random)]
    for part in SHARES[1:2] if grid.ceiling_ap50 else ():
        said.append(_on_saving(context, method, part, shared))
    last = Spread.of([value for seed, value in finals(grid, method).items() if seed in shared.seeds])
    if last is not None and grid.ceiling_ap50 is not None:
        said.append(
            f"After {grid.budget} of {grid.identity['train_images']} labels {method.title} stands at an AP50 "
            f"of {words.spread(last)}; all labels give {grid.ceiling_in_words}"
            + (f", of which that is {words.share(last.mean / grid.ceiling_ap50)}." if grid.ceiling_ap50 else ".")
        )
    return [sentence for sentence in said if sentence]


def _on_overtaking(method: Line, found: Overtaking, grid: GridResults) -> str:
    if not found.tried:
        return ""
    if found.labels is None or found.share is None:
        return (
            f"{method.title} does not reach random's final AP50 within {grid.budget} labels in "
            f"{words.many(found.tried, 'seed')}."
        )
    seeds = words.many(found.tried, "seed")
    where = f" in {seeds}" if found.by_all else f" in {found.labels.count} of {seeds}, in the others never"
    return (
        f"{method.title} reaches random's final AP50 with {found.labels.mean:.0f} of {grid.budget} labels "
        f"({words.share(found.share.mean)}){where}."
    )


def _on_area(grid: GridResults, method: Line, random: Line) -> str:
    ours, theirs = areas(grid, method), areas(grid, random)
    found = paired_difference(ours, theirs)
    if found is None:
        return ""
    certain = words.clearness(found)
    if found.interval is not None:
        low, high = found.interval
        certain = f"95% interval {low:+.3f} to {high:+.3f}, {certain}, {words.many(found.pairs, 'seed')}"
    return (
        f"Mean AP50 along the way (area under the learning curve): {method.title} {found.mean:+.3f} against random "
        f"({certain})."
    )


def _on_saving(context: Context, method: Line, part: float, shared: SharedSeeds) -> str:
    found = reached(context.grid, method, part * (context.grid.ceiling_ap50 or 0), shared.seeds)
    what = f"{words.share(part)} of the full-data AP50"
    if not found.tried:
        return ""
    if found.labels is None:
        reaches = f"{method.title} does not reach {what} in {words.many(found.tried, 'seed')}"
    elif not found.by_all:
        reaches = f"{method.title} reaches {what} in {found.labels.count} of {words.many(found.tried, 'seed')}"
    else:
        reaches = f"{method.title} reaches {what} with {found.labels.mean:.0f} labels"
    if found.saved is None:
        return f"{reaches}."
    saves = found.saved.mean >= 0
    verb = "saves" if saves else "costs"
    bound = {"": "", "≥": " at least" if saves else " at most", "≤": " at most" if saves else " at least"}[found.bound]
    images, minutes, dollars = _in_units(context, found.saved if saves else found.saved.times(-1))
    certain = BOUND_ONLY if found.open_to_zero else words.clearness(found.saved)
    if found.saved.interval is not None:
        certain = f"95% intervals over {words.many(found.saved.pairs, 'seed')}, {certain}"
    return f"{reaches}; against random that {verb}{bound} {images} images, {minutes} minutes and {dollars} ({certain})."


def _how(context: Context) -> str:
    return (
        f"AP50 is of masks (mAP at IoU 0.5) on {context.grid.identity['test_images']} test images. Labels are counted "
        "per seed on straight lines between cycles, at the first crossing, then averaged over the seeds that all have "
        "finished; a curve that starts above counts its first cycle. Savings are paired by seed, in brackets their 95% "
        "interval (Student's t). Who never gets there is counted with all the labels it had: where that is random, "
        "the saving is at least (≥) so many, where it is the strategy, at most (≤), and the interval is one of such "
        "bounds; where neither gets there in a seed, nothing is said. An image takes an expert "
        f"{context.minutes_per_image:g} minutes and {words.money(context.cost_per_image)} (--minutes-per-image, "
        "--cost-per-image)."
    )


def _table(context: Context) -> Table:
    grid = context.grid
    head, ceiling = ["strategy"], grid.ceiling_ap50
    for part in SHARES if ceiling else ():
        head.append(f"labels to {words.share(part)} ({part * ceiling:.3f})")
        head += ["saved: images; min; $"] * (grid.random is not None)
    if grid.random is not None:
        head += ["labels to random's final AP50", "of random's labels"]
    shared, rows = SharedSeeds.of(grid, grid.strategies), []
    for line in grid.strategies:
        row = [f"{line.title}{grid.of_seeds(len(grid.finished(line)))}"]
        for part in SHARES if ceiling else ():
            found = reached(grid, line, part * ceiling, shared.seeds)
            row.append(_labels(found))
            row += [_saved(context, found) if line is not grid.random else words.NONE] * (grid.random is not None)
        if grid.random is not None:
            found = overtaking(grid, line, grid.random, shared.seeds)
            row += [_labels(found), words.share(found.share.mean) if found.by_all and found.share else words.NONE]
        rows.append(row)
    what = "random's final AP50"
    if ceiling:
        of = f"shares of the full-data AP50 (all {grid.identity['train_images']} labels: {grid.ceiling_in_words})"
        what = of if grid.random is None else f"{of} and {what}; images, minutes and dollars saved on random"
    caption = f"Labels needed to reach {what}. In brackets: how many of the finished seeds get there, where not all do."
    return Table(f"{caption}{shared.note}", head, rows)


def _labels(found: Reached | Overtaking) -> str:
    """The mean over seeds; who never gets there is said, and not averaged away."""
    if not found.tried:
        return "unfinished"
    if found.labels is None:
        return "not reached"
    if not found.by_all:
        return f"{found.labels.mean:.0f} ({found.labels.count} of {found.tried})"
    return words.spread(found.labels, 0)


def _saved(context: Context, found: Reached) -> str:
    """Such as "≥ 43 (-2 to 88); ≥ 172 (-8 to 352); ≥ $366 (-$17 to $748); not clear of zero"."""
    if found.saved is None:
        return words.NONE
    said = [f"{found.bound} {value}".strip() for value in _in_units(context, found.saved)]
    if found.open_to_zero:
        said.append(BOUND_ONLY)
    elif found.saved.interval is None:
        said.append("one seed, no interval")
    elif not found.saved.clear_of_zero:
        said.append(words.clearness(found.saved))
    return "; ".join(said)


def _in_units(context: Context, images: PairedDifference) -> tuple[str, str, str]:
    """A difference in images as images, minutes and dollars, each with its interval where there is one."""
    return (
        words.interval(images, words.whole),
        words.interval(images.times(context.minutes_per_image), words.whole),
        words.interval(images.times(context.cost_per_image), words.money),
    )
