"""What a process started does not outlive it, and is found wherever it went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# A child, one in a session of its own, and one whose parent has ended
FAMILY = """
import os, subprocess, sys, time
from cluster import children
children.adopt_orphans()
subprocess.Popen(["sh", "-c", "setsid sleep 600 & exec sleep 600"])
subprocess.run(["sh", "-c", "sleep 600 &"])
for _ in range(3000):
    if len(children.descendants(os.getpid())) == 3: break
    time.sleep(0.02)
print(*children.descendants(os.getpid()))
children.kill_all()
print(*children.descendants(os.getpid()))
"""

PARENT = """
import os, signal, subprocess, sys, time
from cluster import children
child = children.start(["sh", "-c", "echo ready; exec sleep 100"], env=dict(os.environ), stdout=subprocess.PIPE,
                       deaf_to=[signal.SIGUSR2])
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(10)
"""

STUBBORN = """
import os, subprocess, sys, time
from cluster import children
for trap, grace_s in (("exit 5", 60.0), ("echo no", 1.0)):
    child = children.start(["sh", "-c", f"trap '{trap}' TERM; echo ready; while :; do sleep 0.1; done"],
                           env=dict(os.environ), stdout=subprocess.PIPE)
    child.stdout.readline()
    children.end(child, grace_s)
    print(child.returncode)
"""


def run(program: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout.split(
        "\n"
    )[:-1]


def is_alive(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended while it was read
        return False


def test_kill_all_finds_orphans_and_other_sessions() -> None:
    before, after = run(FAMILY)
    assert len(before.split()) == 3
    assert after == ""
    assert not any(is_alive(int(pid)) for pid in before.split())


def test_a_child_dies_with_its_parent_and_ignores_what_it_shall() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGUSR2)
        time.sleep(0.1)
        assert is_alive(child)
        parent.kill()
    deadline = time.monotonic() + 300
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_may_end_in_order_but_not_stay() -> None:
    assert run(STUBBORN) == ["5", str(-signal.SIGKILL)]


FOLLOWED = """
import os, subprocess, sys
from cluster import children
output = children.Output()
assert output.exit_code is None
program = "import sys; print('x' * 9999); [print(n) for n in range(30)]; sys.exit(3)"
command = children.start([sys.executable, "-c", program], env=dict(os.environ), stdout=subprocess.PIPE)
output.follow(command)
command.wait()
print("", output.last_lines(), output.exit_code, sep="|", end="|")
"""


def test_what_a_child_prints_goes_on_and_its_end_is_kept() -> None:
    *printed, last = "\n".join(run(f"{FOLLOWED}print()")).partition("|")
    assert printed[0].splitlines() == ["x" * 9999, *map(str, range(30))]
    lines, code, _ = last.split("|")
    assert (lines, code) == (str([str(n) for n in range(10, 30)]), "3")
