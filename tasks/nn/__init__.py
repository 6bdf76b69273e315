"""The mathematics and the models: pure torch, no Prefect, no files."""
