"""The suite `bench/` as a pytest plugin."""
