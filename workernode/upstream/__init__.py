"""Asks the OpenAI-compatible upstream and yields its answer, plain or streamed."""
