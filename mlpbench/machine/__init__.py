"""What it runs on: identity, clock, sentinels, control workload, peak rates, fitness."""
