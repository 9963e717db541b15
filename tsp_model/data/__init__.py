"""Labelled images: sets in memory, COCO folders, the built-in synthetic set, augmentation.

Importing this package costs nothing: torch is loaded only by the modules that need it.
"""


class DataError(ValueError):
    """Data that cannot be used. The message is one line: the cause, then the remedy."""
