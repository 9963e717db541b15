"""Label Studio's own lever for diversity: with clusters, its next task goes round them.

A prediction of Label Studio may carry a cluster. Under uncertainty sampling it then serves, of the clusters in which
this user has labelled least, the task with the lowest score. The clusters here are k-means groups of what the network
sees in an image (the features of core-set) among the version's pool, `TSP_CLUSTERS` many; scores stay what they are.

The bulk import that brings predictions drops their cluster, so each is set by a call of its own afterwards, before the
version orders tasks: some 30 to 40 a second from four threads (15 from one), whatever the predictions' size, which is
also what creating them one by one with their cluster takes, but that cannot be repeated. The clusters' numbers differ
from version to version, because Label Studio counts what a user has labelled in a number whatever version gave it:
each version begins with nothing labelled.

A task that was opened before the worker came to it has a live prediction without a cluster, which Label Studio takes
for one of which nothing is labelled; it gets its cluster as soon as the worker has scored it.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from backend.progress import Progress
from backend.project import LabelStudioProject
from tsp_model.acquisition.core_set import SIGNAL, features
from tsp_model.acquisition.groups import centres_of, nearest
from tsp_model.files import write_atomically
from tsp_model.predictions import Prediction

CENTRES = "clusters.npy"
THREADS = 4
OF_A_VERSION = 10_000  # numbers; Label Studio keeps 32 bits


def keep_clusters(folder: Path, predictions: Iterable[Prediction], count: int, seed: int) -> None:
    """Group a version's pool and keep the centres in its folder, float32 [K, C], unless some are there.

    Args:
        predictions: of the pool; those without features are passed over.
        count: of clusters; fewer if fewer images differ.
    """
    if (folder / CENTRES).is_file():
        return
    points = features(one for one in predictions if SIGNAL in one.signals)
    if not len(points):
        return
    centres = centres_of(points, count, seed)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.save(file, centres)

    write_atomically(folder / CENTRES, write)


def set_clusters(
    project: LabelStudioProject, version: str, folder: Path, predictions: Iterable[Prediction], job: Progress
) -> int:
    """Give the server's predictions of `version` that have no cluster the number of the nearest centre; how many.

    Does nothing for a version without centres.
    """
    if not (folder / CENTRES).is_file():
        return 0
    centres = np.load(folder / CENTRES, allow_pickle=False)
    first = int(version.split("-")[1]) * OF_A_VERSION
    number_of = {
        int(one.key): first + int(nearest(features([one]), centres)[0]) for one in predictions if SIGNAL in one.signals
    }
    without = project.predictions.without_cluster(version)
    missing = [(found, number_of[task]) for task, found in without if task in number_of]
    with ThreadPoolExecutor(THREADS) as threads:
        for done, _ in enumerate(threads.map(lambda pair: project.predictions.set_cluster(*pair), missing), start=1):
            job.update({"done": done, "total": len(missing)})
    return len(missing)
