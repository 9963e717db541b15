"""What people run: set-up, demo, Algorithm 1. May import backend and tsp_model; neither imports this."""
