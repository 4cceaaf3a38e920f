"""What multiprocessing starts besides the workers. What a worker process does is shown by tests/faults."""

import subprocess
import sys

PROGRAM = """
import multiprocessing, os, time, warnings
import psutil
from supervisor.workers import do_without_resource_tracker, end_all_children

warnings.simplefilter("error")
do_without_resource_tracker()
worker = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(0,))
worker.start()
children = [" ".join(child.cmdline()) for child in psutil.Process().children()]
worker.join()
print(worker.exitcode, len(children), "multiprocessing.forkserver" in children[0], flush=True)
end_all_children()
os._exit(0)  # as the supervisor ends
"""


def test_workers_start_without_a_resource_tracker() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120)
    assert (ended.stdout.strip(), ended.stderr) == ("0 1 True", "")
