"""The order of the test files, in which several processes that take one file after the other are done soonest.

pytest-xdist hands out files by their number of tests, so that a file with one long test begins last, and one process
works on it while the others have nothing left to do. Here the longest files begin first. Files that mostly wait (for a
broker, a node, a time-out) alternate with files that mostly compute.
"""

from __future__ import annotations

from collections.abc import Iterable

# The files that take longest. The simulation computes all the time, the others mostly wait: it has to begin beside
# them, or it computes alone in the end.
LONGEST = (
    "tests/faults/test_blame.py",
    "tests/simulation/test_simulation.py",
    "tests/integration/test_local_node.py",
    "tests/faults/test_broker.py",
    "tests/faults/test_broker_access.py",
    "tests/faults/test_supervisor.py",
    "tests/integration/test_unfit.py",
    "tests/integration/test_start_sh.py",
    "tests/faults/test_upstream.py",
    "tests/integration/test_embedded.py",
    "tests/faults/test_batches.py",
    "tests/integration/test_broker_devstack.py",
    "tests/faults/test_gateway.py",
    "tests/unit/supervisor/fitness/test_pacing.py",
    "tests/faults/test_llamafile.py",
    "tests/faults/test_two_nodes.py",
    "tests/faults/test_soak.py",
    "tests/faults/test_workers.py",
    "tests/faults/test_broker_certificates.py",
)
WAITING = ("tests/faults/", "tests/integration/")


def ordered(files: Iterable[str]) -> list[str]:
    """Return the files, each named once, in the order in which they should begin.

    Args:
        files: paths from the project's folder, with `/`.
    """
    found = list(dict.fromkeys(files))
    first = [file for file in LONGEST if file in found]
    others = [file for file in found if file not in first]
    waiting = [file for file in others if file.startswith(WAITING)]
    computing = [file for file in others if not file.startswith(WAITING)]
    shares = [(number / len(waiting), file) for number, file in enumerate(waiting)]
    shares += [((number + 1) / len(computing), file) for number, file in enumerate(computing)]
    return first + [file for _, file in sorted(shares, key=lambda share: share[0])]
