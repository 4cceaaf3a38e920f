"""`workernode-records`: shows the billing records of the record topic, one by one or added up."""

from supervisor.records.command import main

__all__ = ["main"]
