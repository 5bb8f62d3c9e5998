"""Turn records into verdicts."""
