"""The status that a command ends with, whatever threads it leaves behind."""

import subprocess
import sys

BUSY = """
import atexit, sys, threading, time
from gpuserve.cli import main

def work():
    while True:
        time.sleep(0.01)

threading.Thread(target=work, daemon={daemon}).start()
atexit.register(lambda: print("at exit"))
main({argv})
"""


def run(argv: list[str], *, daemon: bool) -> subprocess.CompletedProcess[str]:
    program = BUSY.format(daemon=daemon, argv=argv)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_thread_that_never_ends_holds_nothing_up() -> None:
    done = run(["--version"], daemon=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "at exit"), done
    assert done.stdout.startswith("gpuserve ")


def test_the_status_of_a_failure_survives_a_thread() -> None:
    done = run(["share", "--expires", "0"], daemon=True)
    assert done.returncode == 2, done
    assert "can't live for 0 s" in done.stderr
