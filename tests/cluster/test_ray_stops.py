"""A signal that asks for a stop ends work on Ray as Ctrl-C does, whenever it comes, and with no C stack."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import os, signal, sys, time
from cluster import ray_place
from cluster.ray import connected

def ask():
    os.kill(os.getpid(), signal.SIGTERM)

place = ray_place.require

def require():  # which is asked for when Ray has been imported, and before it starts
    import ray._private.worker as worker
    connect = worker.connect

    def connecting(*words, **options):
        connect(*words, **options)
        if {when!r} == "starting":
            ask()

    worker.connect = connecting
    return place()

ray_place.require = require
try:
    with connected("local"):
        if {when!r} == "working":
            ask()
        time.sleep(60)
except KeyboardInterrupt:
    print("stopped")
    sys.exit(130)
"""


@pytest.mark.parametrize("when", ["starting", "working"])
def test_sigterm_is_ctrl_c(when):
    done = subprocess.run([sys.executable, "-c", CODE.format(when=when)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "stopped\n", "")
