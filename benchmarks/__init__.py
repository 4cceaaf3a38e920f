"""The project's own benchmarks: `python -m benchmarks --help`, docs/performance.md."""
