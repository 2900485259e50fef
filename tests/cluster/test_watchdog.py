"""A process that makes no step ends, and says where it was; one that does lives on, and leaves nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cluster.process import birth
from cluster.watchdog import Watchdog, hung_at, stacks_file, waits_for_others

BEATS = """
with Watchdog(FILE, 6.0) as watchdog:
    for _ in range(75):
        time.sleep(0.1)
        watchdog.beat()
print("done")
"""
HANGS = """
def step():
    time.sleep(100)

import threading
threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
with Watchdog(FILE, 2.0) as watchdog:
    watchdog.beat()
    step()
"""
HANGS_IN_THE_KERNEL = """
import ctypes
with Watchdog(FILE, 2.0):
    ctypes.PyDLL(None).sleep(100)  # keeps Python's lock
"""
STOPPED = """
import time
with Watchdog(FILE, 2.0) as watchdog:
    watchdog.beat()
    print("began", flush=True)
    time.sleep(100)  # no beat: one that comes between the signal to go on and the end would keep it alive
"""
HANGS_WITH_A_FORK = """
import os
with Watchdog(FILE, 2.0):
    if os.fork() == 0:
        FILE.with_name("forked").write_text(str(os.getpid()))
        os.closerange(0, 3)  # what is said is read until all who could say something have ended
        time.sleep(60)
        os._exit(0)
    time.sleep(100)
"""
FAILS = """
with Watchdog(FILE, 60.0):
    raise ValueError
"""
UNWATCHED = """
with Watchdog(FILE, None) as watchdog:
    watchdog.beat()
print("done")
"""


def run(program: str, file: Path) -> subprocess.CompletedProcess[str]:
    script = file.parent / "program.py"
    script.write_text(
        f"import time\nfrom pathlib import Path\nfrom cluster.watchdog import *\nFILE = Path({str(file)!r})"
    )
    with script.open("a") as text:
        text.write(program)
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("program", "code"), [(BEATS, 0), (FAILS, 1), (UNWATCHED, 0)])
def test_steps_keep_it_alive_and_it_leaves_nothing(tmp_path: Path, program: str, code: int) -> None:
    found = run(program, tmp_path / "rank-0.txt")
    assert (found.returncode, found.stdout) == (code, "" if code else "done\n")
    assert not (tmp_path / "rank-0.txt").exists()


def test_without_a_step_it_ends_and_says_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / stacks_file(3)
    found = run(HANGS, file)
    assert found.returncode == 1
    assert found.stderr == f"rank-3: no step for 2 s (or stopped for as long): ended; stacks in {file}\n"
    line = (tmp_path / "program.py").read_text().splitlines().index("    time.sleep(100)") + 1
    assert hung_at(file) == f"step ({tmp_path.name}/program.py:{line})"
    assert not waits_for_others(file)


def test_one_that_was_stopped_says_so_when_it_goes_on(tmp_path: Path) -> None:
    file, script = tmp_path / "rank-0.txt", tmp_path / "program.py"
    place = f"from pathlib import Path\nfrom cluster.watchdog import *\nFILE = Path({str(file)!r})\n"
    script.write_text(place + STOPPED)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as stopped:
        assert stopped.stdout is not None
        stopped.stdout.readline()
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(2.2)
        stopped.send_signal(signal.SIGCONT)
        assert b"no step for 2 s (or stopped for as long): ended" in stopped.communicate()[1]
    assert hung_at(file) is not None


def test_it_ends_also_within_a_call_that_keeps_pythons_lock(tmp_path: Path) -> None:
    assert run(HANGS_IN_THE_KERNEL, tmp_path / "rank-0.txt").returncode == 1
    assert str(hung_at(tmp_path / "rank-0.txt")).startswith("<module> (")


def test_its_folder_comes_and_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "stacks").mkdir()
    found = run(UNWATCHED.replace("None", "60.0").replace("FILE", "FILE / 'below' / 'x.txt'"), tmp_path / "stacks")
    assert found.stdout == "done\n"
    assert not (tmp_path / "stacks").exists() or list((tmp_path / "stacks").iterdir()) == []


def stacks(file: Path, *main: str, other: str = 'File "/a/spider/feed.py", line 3 in read') -> Path:
    """As faulthandler writes them: the main thread last, its innermost call first."""
    text = f"""
        Timeout (0:10:00)!
        Thread 0x00007f1 (most recent call first):
          {other}

        Thread 0x00007f2 (most recent call first):
    """
    file.write_text(textwrap.dedent(text).rstrip() + "\n" + "".join(f"  {line}\n" for line in main))
    return file


def test_the_place_is_the_innermost_of_the_projects(tmp_path: Path) -> None:
    file = stacks(
        tmp_path / "x",
        'File "/env/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 9 in all_reduce',
        'File "/run/slurm/code/0a1b/cluster/world.py", line 77 in any',
        'File "/run/slurm/code/0a1b/spider/train/loop.py", line 5 in run',
    )
    assert hung_at(file) == "any (cluster/world.py:77)"
    assert waits_for_others(file)


def test_a_result_that_a_gpu_owes_is_waited_for_with_the_others(tmp_path: Path) -> None:
    """NCCL's collectives return at once."""
    waiting, loop = 'cluster/world.py", line 9 in read', 'spider/train/loop.py", line 5 in run'
    assert waits_for_others(stacks(tmp_path / "x", f'File "/run/{waiting}', f'File "/run/{loop}'))
    assert not waits_for_others(stacks(tmp_path / "y", f'File "/run/{loop}'))


def test_what_another_thread_waits_for_does_not_count(tmp_path: Path) -> None:
    file = stacks(
        tmp_path / "x",
        'File "/run/spider/train/loop.py", line 5 in run',
        other='File "/env/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 9 in all_reduce',
    )
    assert not waits_for_others(file)
    assert hung_at(file) == "run (train/loop.py:5)"


def test_the_place_within_a_library_is_better_than_none(tmp_path: Path) -> None:
    frame = 'File "/env/lib/python3.11/site-packages/torch/optim/adam.py", line 9 in step'
    assert hung_at(stacks(tmp_path / "x", frame)) == "step (optim/adam.py:9)"


def test_no_file_and_an_empty_one_are_no_hang(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert [hung_at(tmp_path / name) for name in ("none", "empty")] == [None, None]
    assert [waits_for_others(tmp_path / name) for name in ("none", "empty")] == [False, False]


def test_a_forked_process_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """It has a copy of all that is open: a reading process of a training, which lives as long as that."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(120,))
    with Watchdog(tmp_path / "stacks" / "rank-0.txt", 600):
        child.start()
    assert child.is_alive()
    child.kill()
    child.join()


def test_a_forked_process_does_not_hold_up_what_is_said(tmp_path: Path) -> None:
    file = tmp_path / "rank-0.txt"
    found = run(HANGS_WITH_A_FORK, file)
    forked = int((tmp_path / "forked").read_text())
    assert birth(forked) is not None
    os.kill(forked, signal.SIGKILL)
    assert found.stderr == f"rank-0: no step for 2 s (or stopped for as long): ended; stacks in {file}\n"
    assert hung_at(file) is not None
