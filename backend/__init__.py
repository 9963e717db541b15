"""The Label Studio service: pre-annotations with masks and scores, and training as a durable job."""
