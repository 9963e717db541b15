"""A grid of experiments: strategies x seeds, each cell one run of Algorithm 1, in memory."""
