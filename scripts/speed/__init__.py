"""Comparisons side by side: one file a subject, `python -m scripts.benchmark speed` runs them."""
