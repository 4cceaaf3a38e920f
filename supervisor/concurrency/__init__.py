"""The dynamic concurrency limit: readings of the machine and of the throughput in, a number of tasks out."""
