"""Logging: JSON or text lines, secrets removed, repeated lines folded."""
