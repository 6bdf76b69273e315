"""What runs in which order: a Prefect flow per stage, the pipeline over them, the command line."""
