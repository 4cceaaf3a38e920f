"""The local model server as a child process: start, health, restart, stop, and why it failed."""
