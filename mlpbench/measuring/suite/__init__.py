"""Run the benchmark suite `bench/`, as a pytest plugin on top of pytest-benchmark."""
