"""A one-node Slurm cluster of its own folder and ports, without munge or a database; the machine needs Debian's slurm-wlm."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")

_CONF = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ctld_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
FirstJobId={first_job}
MinJobAge=3600
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 Port={d_port} CPUs=8 RealMemory=16000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no cluster can be started here."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"Slurm is not installed: no {missing[0]} (apt-get install slurm-wlm)"
    return None if os.geteuid() == 0 else "slurmctld and slurmd want root"


@contextmanager
def cluster(folder: Path) -> Iterator[Mapping[str, str]]:
    """Starts the daemons; gives the environment in which clients find them, and ends every job and daemon."""
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    _write(folder)
    host = socket.gethostname().split(".")[0]
    daemons = []
    try:
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            log = open(folder / f"{command[0]}.out", "wb")  # noqa: SIM115 (the daemon's)
            daemons.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
            )
        _wait_for_node(environment, folder)
        yield environment
    finally:
        subprocess.run(["scancel", "-Q", "-s", "KILL", "--full", "-u", "root"], env=environment, timeout=20)
        subprocess.run(["scancel", "-Q", "-u", "root"], env=environment, timeout=20)
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)


def _end_with_parent() -> None:
    """Also when the tests are killed, no daemon stays (prctl's PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"


def _write(folder: Path) -> None:
    for name in ("state", "spool", "dev"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    ctld_port, d_port = _free_ports(2)
    values = {"host": host, "folder": folder, "ctld_port": ctld_port, "d_port": d_port}
    (folder / "slurm.conf").write_text(_CONF.format(**values, first_job=int(time.time()) % 1_000_000 * 10))
    for gpu in range(2):
        (folder / "dev" / f"gpu{gpu}").symlink_to("/dev/null")
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/dev/gpu[0-1]\n")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_for_node(environment: Mapping[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        if found.stdout.startswith("idle"):
            return
        time.sleep(0.1)
    logs = "\n".join(path.read_text()[-800:] for path in folder.glob("*.log"))
    raise RuntimeError(f"the cluster did not start:\n{logs}")
