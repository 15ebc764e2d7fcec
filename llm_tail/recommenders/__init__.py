"""What to show: one contract, the baselines, and the hybrid."""
