"""The order of the test files, in which several processes that take one file after the other are done soonest.

pytest-xdist hands out files by their number of tests, so that a file with one long test begins last, and one process
works on it while the others have nothing left to do. Here the longest files begin first. Files that mostly wait (for a
broker, a node, a time-out) alternate with files that mostly compute.
"""

from __future__ import annotations

from collections.abc import Iterable

# The files that take longer than a minute on a quiet box with two processors.
LONGEST = (
    "tests/faults/test_soak.py",
    "tests/faults/test_blame.py",
    "tests/integration/test_local_node.py",
    "tests/faults/test_upstream.py",
)
WAITING = ("tests/faults/", "tests/integration/")


def ordered(files: Iterable[str]) -> list[str]:
    """Return the files, each named once, in the order in which they should begin.

    Args:
        files: paths from the project's folder, with `/`.
    """
    found = list(dict.fromkeys(files))
    first = [file for file in LONGEST if file in found]
    waiting = [file for file in found if file.startswith(WAITING) and file not in first]
    computing = [file for file in found if not file.startswith(WAITING)]
    shares = [(number / len(waiting), file) for number, file in enumerate(waiting)]
    shares += [((number + 1) / len(computing), file) for number, file in enumerate(computing)]
    return first + [file for _, file in sorted(shares, key=lambda share: share[0])]
