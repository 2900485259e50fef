"""A real Slurm cluster of two nodes on this machine, for as long as this process lives.

    python tests/drills/slurm_cluster.py FOLDER      # prints: export SLURM_CONF=FOLDER/slurm.conf
    ^C                                               # ends it, its jobs, and all that they started

    FOLDER/slurm.conf, munge.key, munge.log, slurmctld.log, n1.log, n2.log, state/, n1/, n2/

Needs root, and Debian's packages slurmctld, slurmd, slurm-client, munge (22.05 was tried). Two slurmd stand for two
nodes; their names are in /etc/hosts meanwhile, since programs look for each other under them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from cluster import children

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")

_HOSTS = Path("/etc/hosts")
_HOSTS_LINE = f"127.0.0.1 {' '.join(NODES)} # slurm_cluster.py\n"
_START_S = 180.0

_CONF = """\
ClusterName=drill
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until the credential of its last start is no longer valid: 120 s by default
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
# As little of the machine as possible: no control groups, no accounting, no binding of cores
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# Look often whether a job may start: every half minute by default
SchedulerParameters=bf_interval=2,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
# A node that does not answer is lost after that many seconds
SlurmdTimeout=20
JobRequeue=1
# Jobs of another such cluster on this machine have other numbers, and so other ports and folders
FirstJobId={first_job}
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def run(folder: Path) -> None:
    """Until SIGTERM, SIGINT or the death of the parent."""
    stopped, parent = False, os.getppid()

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    children.adopt_orphans()
    folder = folder.absolute()
    _write_configuration(folder)
    hosts = _HOSTS.read_text()
    _HOSTS.write_text(hosts + _HOSTS_LINE)  # in place: in a container it is mounted by itself
    try:
        daemons = _start(folder)
        print(f"export SLURM_CONF={folder}/slurm.conf", flush=True)
        while not stopped and os.getppid() == parent:  # a drill that hangs ends with its process, and tidies nothing
            time.sleep(0.1)
            for name, daemon in daemons.items():
                if daemon.poll() is not None and not name.startswith("slurmd"):  # a drill may kill a node
                    sys.exit(f"{name} ended with exit code {daemon.returncode}; its log is in {folder}")
    finally:
        children.kill_all()
        _HOSTS.write_text(_HOSTS.read_text().replace(_HOSTS_LINE, "", 1))


def start_node(name: str, conf: Path) -> subprocess.Popen[bytes]:
    """Start a node's daemon, also again after it was killed."""
    command = ["slurmd", "-D", "-N", name, "-f", str(conf), "-L", str(conf.parent / f"{name}.log")]
    return children.start(command, env=_env(conf.parent), stdout=subprocess.DEVNULL)


def _start(folder: Path) -> dict[str, subprocess.Popen[bytes]]:
    conf = folder / "slurm.conf"
    munged = [
        *("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key"),
        *(f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munge.log"),
    ]
    slurmctld = ["slurmctld", "-D", "-f", str(conf), "-L", str(folder / "slurmctld.log")]
    env = _env(folder)
    daemons = {"munged": children.start(munged, env=env, stdout=subprocess.DEVNULL)}
    _wait_for("munged", (folder / "munge.socket").exists)
    daemons["slurmctld"] = children.start(slurmctld, env=env, stdout=subprocess.DEVNULL)
    for name in NODES:
        daemons[f"slurmd {name}"] = start_node(name, conf)
    _wait_for("two idle nodes", lambda: _says(env, "sinfo", "--noheader", "--format=%D %t") == f"{len(NODES)} idle")
    return daemons


def _write_configuration(folder: Path) -> None:
    for name in ("state", *NODES):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    ports, first_job = _free_ports(1 + len(NODES)), 1 + secrets.randbelow(1_000_000)
    (folder / "slurm.conf").write_text(_CONF.format(folder=folder, ports=ports, first_job=first_job))


def _free_ports(count: int) -> list[int]:
    there = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in there]
    for server in there:
        server.close()
    return ports


def _env(folder: Path) -> dict[str, str]:
    return {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}


def _says(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout.strip()


def _wait_for(what: str, is_there: object) -> None:
    assert callable(is_there)
    deadline = time.monotonic() + _START_S
    while not is_there():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not there after {_START_S:g} s")
        time.sleep(0.1)


if __name__ == "__main__":
    if os.geteuid() != 0 or not all(shutil.which(program) for program in PROGRAMS):
        sys.exit(f"needs root, and on the PATH: {', '.join(PROGRAMS)}")
    run(Path(sys.argv[1]))
