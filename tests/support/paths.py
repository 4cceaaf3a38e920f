"""Where the project is, for tests that read its files. Tests import it instead of counting parent folders."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
