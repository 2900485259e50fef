"""A request of Slurm is read, or refused by its key; its script is as it was; signals are noted, not acted on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.errors import ClusterError, ClusterUsageError
from cluster.slurm import queue
from cluster.slurm.place import SlurmTask, network_interface
from cluster.slurm.queue import requeue_job, time_left_s
from cluster.slurm.request import SlurmRequest, changed, minutes, read_request
from cluster.slurm.script import Launch, script, submit
from cluster.slurm.signals import REQUEUED, JobSignals

if TYPE_CHECKING:
    from tests.conftest import Programs

PLAIN = Launch(name="plain", tasks_per_node=8, srun_args=("--kill-on-bad-exit=1",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90:00", 90),
        ("0:01", 1),
        ("2:00:00", 120),
        ("2:00:01", 121),
        ("1-12", 36 * 60),
        ("1-12:30", 36 * 60 + 30),
        ("1-12:30:00", 36 * 60 + 30),
        ("7-00:00:00", 7 * 24 * 60),
    ],
)
def test_time_has_slurms_forms(text: str, expected: int) -> None:
    assert minutes(text) == expected


def test_a_line_may_be_longer_than_a_file_name() -> None:
    lines = [f"module load part/{number}" for number in range(300)]
    assert len(read_request(f"time=5,setup=[{','.join(lines)}]").setup) == 300


@pytest.mark.parametrize("amount", ["inf", "nan", "-1", "x"])
def test_an_amount_of_memory_is_a_finite_number(amount: str) -> None:
    with pytest.raises(ClusterUsageError, match=r"^slurm: mem_gb: "):
        read_request(f"time=5,mem_gb={amount}")


@pytest.mark.parametrize("text", ["", "2h", "1:2:3:4", "-5", "1-", "1.5", "unlimited"])
def test_other_times_are_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ClusterUsageError, match=r"^slurm: time: a time is MINUTES, .*, found '"):
        read_request(f"time={text}")


def test_a_line_and_a_file_say_the_same(tmp_path: Path) -> None:
    line = (
        "nodes=2,gpus_per_node=8,partition=gpu,time=1:30:00,cpus_per_task=12,mem_gb=1.5,account=me,qos=high,"
        "constraint=[a100|h100],exclusive=true,job_name=x,setup=[module load cuda, source venv/bin/activate]"
    )
    (tmp_path / "cluster.yaml").write_text(
        "nodes: 2\ngpus_per_node: 8\npartition: gpu\ntime: 1:30:00\ncpus_per_task: 12\nmem_gb: 1.5\naccount: me\n"
        "qos: high\nconstraint: '[a100|h100]'\nexclusive: true\njob_name: x\n"
        "setup:\n  - module load cuda\n  - source venv/bin/activate\n"
    )
    request = read_request(line)
    assert request == read_request(str(tmp_path / "cluster.yaml"))
    assert (request.time_min, request.setup) == (90, ("module load cuda", "source venv/bin/activate"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu_per_node=8,time=1", "slurm: gpu_per_node: no such key; did you mean gpus_per_node?"),
        ("color=red,time=1", "slurm: color: no such key; keys: time, nodes, "),
        ("nodes=two,time=1", "slurm: nodes: input should be a valid integer, .*, found 'two'"),
        ("nodes=0,time=1", "slurm: nodes: input should be greater than 0, found '0'"),
        ("time=0", "slurm: time: input should be greater than 0, found 0"),
        ("nodes=2", "slurm: time: missing; MINUTES, "),
        ("partition=,time=1", "slurm: partition: string should have at least 1 character, found ''"),
        ("nodes=2,time=1,nodes=3", "slurm: nodes is given twice: 2 and 3"),
        ("time=1,exclusive", "slurm: exclusive: not KEY=VALUE; keys: "),
        ("signal_delay_s=10,time=1", "slurm: signal_delay_s: input should be greater than or equal to 60, found '10'"),
        ("cluster.yml", "cluster.yml: neither a file nor KEY=VALUE,KEY=VALUE; keys: "),
    ],
)
def test_what_is_wrong_in_a_line_is_named(text: str, message: str) -> None:
    with pytest.raises(ClusterUsageError, match=f"^{message}"):
        read_request(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "not a mapping of keys"),
        ("a: [", "not plain YAML: "),
        ("time: !!python/object/apply:os.getcwd []", "not plain YAML: the tag "),
        ("time: 5\nextra: {nodes: 3}", "extra.nodes: not here; keys beside extra: "),
        ("time: 5\nextra: {mail-type: ''}", "extra.mail-type: string should have "),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(ClusterUsageError) as error:
        read_request(str(file))
    assert str(error.value).startswith(f"{file}: {message}")


def test_some_keys_of_a_request_are_changed() -> None:
    request = read_request("nodes=2,gpus_per_node=8,time=1:30:00,setup=[module load cuda]")
    assert (request.tasks, read_request("time=1").tasks) == (8, 1)
    other = changed(request, {"tasks_per_node": 3, "time": "2:00"}, "stage a")
    assert (other.tasks, other.time_min, other.nodes, other.setup) == (3, 2, 2, ("module load cuda",))
    assert changed(request, {}, "stage a") == request
    with pytest.raises(ClusterUsageError, match=r"^stage a: nods: no such key; did you mean nodes\?"):
        changed(request, {"nods": 2}, "stage a")


def test_anything_else_reaches_sbatch(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("time: 5\nmem_gb: 0\nextra: {mail-type: END, overcommit: true, wckey: vision}")
    lines = script(read_request(str(file)), tmp_path, PLAIN).splitlines()
    for flag in ("--mail-type=END", "--overcommit", "--wckey=vision", "--mem=0M", "--ntasks-per-node=8", "--requeue"):
        assert f"#SBATCH {flag}" in lines
    assert not any(line.startswith("#SBATCH --gpus") for line in lines)


def test_a_job_is_submitted_as_its_script_says(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.play("sbatch", f'cp "$1" {tmp_path}/given; env > {tmp_path}/env; echo Submitted batch job 7')
    monkeypatch.setenv("SLURM_JOB_ID", "5")  # as within a job
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    request = SlurmRequest(time="5", nodes=2)
    assert submit(print, request, tmp_path / "job", PLAIN) == "7"
    assert (tmp_path / "given").read_text() == script(request, tmp_path / "job", PLAIN)
    assert sorted(file.name for file in (tmp_path / "job").iterdir()) == ["7_submission.sh", "7_submitted.pkl"]
    seen = (tmp_path / "env").read_text().splitlines()
    assert "SLURM_CONF=/etc/slurm.conf" in seen
    assert not any(line.startswith("SLURM_JOB_ID=") for line in seen)


def test_a_refusal_is_slurms_own_line(programs: Programs, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    programs.play("sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    with pytest.raises(ClusterError, match=r"^sbatch refuses the job: error: invalid partition specified: x$"):
        submit(print, SlurmRequest(time="5"), tmp_path / "job", PLAIN)
    assert list((tmp_path / "job").iterdir()) == []
    assert capfd.readouterr().err == ""


def test_a_machine_outside_of_a_cluster_is_told_what_it_can_do(programs: Programs, tmp_path: Path) -> None:
    programs.play("sbatch", "echo 'sbatch: fatal: Could not establish a configuration source' >&2; exit 1")
    with pytest.raises(ClusterError, match=r"^sbatch refuses the job: .*source; .*--slurm local$"):
        submit(print, SlurmRequest(time="5"), tmp_path / "job", PLAIN)


def test_without_slurm_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterUsageError, match="no sbatch"):
        submit(print, SlurmRequest(time="5"), tmp_path / "job", PLAIN)


def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"JOB_ID": "7", "PROCID": "3", "NTASKS": "8", "LOCALID": "1"}
    given |= {"JOB_NODELIST": "a[1-2,05],b", "CPUS_ON_NODE": "64", "GPUS_ON_NODE": "8"}
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    with pytest.raises(ClusterUsageError, match="SLURMD_NODENAME is not set"):
        SlurmTask.from_env()
    monkeypatch.setenv("SLURMD_NODENAME", "b")
    assert SlurmTask.from_env() == SlurmTask(7, 0, 3, 8, 1, ("a1", "a2", "a05", "b"), "b", 64, 8)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert (SlurmTask.from_env().cpus, SlurmTask.from_env().restarts) == (12, 2)


def test_signals_are_noted_and_handed_on_when_asked() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: came.append(number))
    try:
        with JobSignals() as signals:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert (signals.preempted, signals.cancelled, came) == (True, False, [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.cancelled
            signals.requeue()
            assert came == [signal.SIGUSR2]
            # What asks Slurm for the requeue is a process of the job, which Slurm then ends
            child = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)"]
            assert subprocess.check_output(child).strip() == b"True"
        os.kill(os.getpid(), signal.SIGUSR2)
        assert len(came) == 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_without_submitit_a_job_does_not_go_back() -> None:
    with JobSignals() as signals, pytest.raises(ClusterError, match=r"^stopped by SIGUSR2; nothing here "):
        signals.requeue()


def test_a_slurm_that_does_not_answer_is_asked_again(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_AGAIN_S", 0.01)
    seen = programs.folder / "seen"
    programs.play(
        "scontrol", f"[ -e {seen} ] && exit 0; touch {seen}; echo 'Socket timed out on send/recv' >&2; exit 1"
    )
    requeue_job("7")
    assert programs.calls("scontrol") == ["requeue 7"] * 2
    monkeypatch.setattr(queue, "_PATIENCE_S", 1.0)
    programs.play("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ClusterError, match=r"^Unable to contact slurm controller$"):
        requeue_job("7")


def test_a_slurm_that_refuses_is_asked_once(programs: Programs) -> None:
    programs.play("scontrol", "echo 'Access/permission denied' >&2; exit 1")
    with pytest.raises(ClusterError, match=r"^Access/permission denied$"):
        requeue_job("7")
    assert programs.calls("scontrol") == ["requeue 7"]


def test_a_requeue_that_submitit_was_refused_is_asked_for_again(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    programs.play("scontrol")

    def as_submitit(number: int, frame: object) -> None:
        raise subprocess.CalledProcessError(1, "scontrol")

    before = [signal.signal(number, as_submitit) for number in (signal.SIGUSR2, signal.SIGTERM)]
    try:
        with JobSignals() as signals, pytest.raises(SystemExit) as ended:
            signals.requeue()
    finally:
        for number, handler in zip((signal.SIGUSR2, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert ended.value.code == REQUEUED
    assert programs.calls("scontrol") == ["requeue 7"]


@pytest.mark.parametrize("does", ["exit 1", "sleep 60"])
def test_the_time_left_is_not_waited_for(programs: Programs, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    monkeypatch.setattr(queue, "_ASIDE_S", 0.2)
    programs.play("squeue", f"exec {does}" if does.startswith("sleep") else does)
    assert time_left_s("7") is None


def test_a_job_whose_end_is_announced_at_its_beginning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterUsageError, match=r"^slurm: time: 2 min are no longer than signal_delay_s=120"):
        script(read_request("time=2"), tmp_path, PLAIN)


@pytest.mark.parametrize(("within", "account"), [(False, "vision"), (True, "")])
def test_wishes_of_the_environment_are_those_of_a_login_node(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: bool, account: str
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "vision")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if within:
        monkeypatch.setenv("SLURM_JOB_ID", "6")
    programs.play("sbatch", f"echo $SBATCH_ACCOUNT > {tmp_path}/account; echo Submitted batch job 7")
    assert submit(print, read_request("time=5"), tmp_path / "job", PLAIN) == "7"
    assert (tmp_path / "account").read_text().strip() == account


def test_an_interface_is_found_by_its_address() -> None:
    assert network_interface("127.0.0.1") == "lo"
    assert network_interface("192.0.2.1") is None  # nobody's
