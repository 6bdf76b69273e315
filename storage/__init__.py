"""What a soft-label set is on disk and how it is written and read.

Built on pyarrow, fsspec, polars, numpy and pydantic; knows neither torch nor Prefect.
"""
