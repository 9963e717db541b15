"""What a version is worth on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsp_model.data.image_set import ImageSet
from tsp_model.evaluation import average_precision
from tsp_model.prediction_pass import score_pool
from tsp_model.predictions import PredictionFile, write_predictions
from tsp_model.progress import Progress, silent

TEST_PREDICTIONS = "test_predictions.jsonl"  # of a version; every detection that AP50 sees


def quality_on_test(version: Path, test: ImageSet, kept: Path, progress: Progress = silent) -> dict[str, Any]:
    """AP50 of a version, see evaluation.average_precision; what it predicts is written to TEST_PREDICTIONS.

    Args:
        version: its folder. kept: the folder of what it predicts, which the report's pictures are made of.

    What a strategy asks of the pool beyond predictions, such as Monte Carlo passes, is not computed.
    """
    write_predictions(kept / TEST_PREDICTIONS, score_pool(version, test, progress, signals=False))
    return average_precision(test, PredictionFile(kept / TEST_PREDICTIONS))
