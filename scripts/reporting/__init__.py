"""Parts of `python -m scripts.report`: a section of the report a module, and what they share."""
