"""Folders that the node needs, on a machine where they cannot be used."""

from __future__ import annotations

import subprocess
import sys

LIMITED = """
import resource, tempfile
from supervisor.machine import unwritable_folder
tempfile.gettempdir()  # writes a file to find the folder
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(unwritable_folder())
"""


def test_a_folder_in_which_no_file_can_grow_is_found_before_a_worker_starts() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert "the folder for temporary files cannot be written to (File too large)" in done.stdout
