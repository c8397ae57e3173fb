"""A farm: workers on several machines, each beside a server, on Dask distributed (extra farm)."""
