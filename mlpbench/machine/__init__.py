"""Describe and watch the machine: environment, clock, sentinels, control workload, peak rates, fitness."""
