"""Triplet Scoring Predictions (TSP): instance segmentation that says how sure it is.

Mask R-CNN with two extra heads that predict box and mask quality, the score that merges them with the class score,
pseudo labels and the training of "Semi-supervised Active Learning for Instance Segmentation via Scoring Predictions"
(BMVC 2020, arXiv 2012.04829). This package knows no HTTP and no Label Studio.
"""
