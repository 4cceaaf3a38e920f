"""Processes and everything outside: the broker, the worker processes, the local model, reports and status."""
