"""A Slurm cluster of its own folder and ports on this machine, without munge or a database; it needs Debian's slurm-wlm.

Several nodes are several `slurmd` on ports of their own (Slurm's FAQ, "multiple slurmd daemons"; Debian builds for it).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
SlurmdTimeout=15
JobRequeue=1
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=16000 Gres=gpu:2\n"


def why_not(nodes: int = 1) -> str | None:
    """Why no cluster can be started here."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"Slurm is not installed: no {missing[0]} (apt-get install slurm-wlm)"
    if len(_names()) < nodes:
        return f"{nodes} nodes need as many names of this machine: /etc/hosts has {len(_names())} for 127.0.0.1"
    return None if os.geteuid() == 0 else "slurmctld and slurmd want root"


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _names() -> list[str]:
    """Names by which processes of a job find this machine; the first is its own."""
    lines = (line.split() for line in Path("/etc/hosts").read_text().splitlines())
    known = [
        name for address, *names in filter(None, lines) if address == "127.0.0.1" for name in names if "." not in name
    ]
    return list(dict.fromkeys([_host(), *known]))


@dataclass
class Cluster:
    """A cluster that runs.

    Attributes:
        environment: in which clients find it.
        nodes: names.
    """

    folder: Path
    environment: Mapping[str, str]
    nodes: list[str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """A node, or ``slurmctld``."""
        command = ["slurmctld", "-D"] if name == "slurmctld" else ["slurmd", "-D", "-N", name]
        with open(self.folder / f"{name}.out", "wb") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                env=dict(self.environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def kill_node(self, name: str) -> int:
        """As if its power went: the daemon and all that runs there are gone at once; how many processes of jobs that were."""
        self.daemons[name].kill()
        self.daemons[name].wait()
        mine = [pid for pid in _processes() if f"SLURMD_NODENAME={name}\0" in _text(f"/proc/{pid}/environ")]
        steps = {parent for pid in mine if _text(f"/proc/{(parent := _parent(pid))}/comm").startswith("slurmstepd")}
        for pid in [*steps, *mine]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(mine)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    return int(_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[1:2][0] or 0)


@contextmanager
def cluster(folder: Path, nodes: int = 1) -> Iterator[Cluster]:
    """Starts the daemons; in the end no job and no daemon is left."""
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    found = Cluster(folder, environment, _names()[:nodes])
    _write(folder, found.nodes)
    try:
        for name in ("slurmctld", *found.nodes):
            found.start(name)
        _wait_for_nodes(found)
        yield found
    finally:
        subprocess.run(["scancel", "-Q", "-s", "KILL", "--full", "-u", "root"], env=environment, timeout=20)
        subprocess.run(["scancel", "-Q", "-u", "root"], env=environment, timeout=20)
        time.sleep(1)
        for daemon in reversed(found.daemons.values()):
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


def _write(folder: Path, nodes: list[str]) -> None:
    for name in ("state", "spool", "dev"):
        (folder / name).mkdir(parents=True)
    ctld_port, *ports = _free_ports(1 + len(nodes))
    values = {"host": _host(), "folder": folder, "ctld_port": ctld_port}
    text = _CONF.format(**values, first_job=int(time.time()) % 1_000_000 * 10)
    text += "".join(_NODE.format(name=name, host=_host(), port=port) for name, port in zip(nodes, ports, strict=True))
    (folder / "slurm.conf").write_text(text)
    for gpu in range(2):
        (folder / "dev" / f"gpu{gpu}").symlink_to("/dev/null")
    (folder / "gres.conf").write_text(f"NodeName={','.join(nodes)} Name=gpu File={folder}/dev/gpu[0-1]\n")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_for_nodes(started: Cluster) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = subprocess.run(
            ["sinfo", "-h", "-N", "-p", "main", "-o", "%T"],
            env=dict(started.environment),
            capture_output=True,
            text=True,
        )
        if found.stdout.split() == ["idle"] * len(started.nodes):
            return
        time.sleep(0.1)
    logs = "\n".join(path.read_text()[-800:] for path in started.folder.glob("*.log"))
    raise RuntimeError(f"the cluster did not start:\n{logs}")
