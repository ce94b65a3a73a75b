"""A real Slurm cluster on this host for tests: munge, slurmctld and slurmd in private namespaces and one folder.

Nothing of the host changes: every daemon has its own process and mount namespace, its sockets, keys, logs and
device files lie in one folder, and ending a daemon's namespace ends every process of its jobs.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stoppable import Stoppable

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "unshare", "setpriv")
NUM_GPUS = 8
_START_SECONDS = 30.0
_GRACE_SECONDS = 60
"""How long a job in `main` may go on once a job in `urgent` wants its nodes."""
_NAMESPACE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")

_SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=6
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
KillWait=20
MinJobAge=3600
ReturnToService=2
EnforcePartLimits=ALL
MailProg=/bin/true
PlugStackConfig={folder}/plugstack.conf
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


class SlurmError(RuntimeError):
    """A Slurm command failed, or the cluster did not come up."""


def missing_requirement() -> str | None:
    """Return why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and device files"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"needs {', '.join(missing)}: make slurm-packages"
    probe = subprocess.run([*_NAMESPACE, "--uts", "true"], capture_output=True, text=True, check=False)
    return None if probe.returncode == 0 else f"namespaces are not allowed here: {probe.stderr.strip()}"


class SlurmCluster(Stoppable):
    """A running cluster; use as a context manager."""

    def __init__(self, num_nodes: int = 2) -> None:
        self.nodes = [f"n{index}" for index in range(1, num_nodes + 1)]
        # A short path: unix sockets allow 108 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))
        } | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start every daemon and wait until jobs can run."""
        self._write_files()
        self._start()
        self._wait_until_idle()

    def stop(self) -> None:
        """End every daemon, and with its namespace every process of every job; remove the folder."""
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGKILL)
        for daemon in self._daemons:
            daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, command: Sequence[str | Path], *, check: bool = True, **environment: str) -> str:
        """Run a client command and return what it printed."""
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise SlurmError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def job(self, job_id: str | int) -> Mapping[str, str]:
        """Return the fields of `scontrol show job`."""
        text = self.run(["scontrol", "--oneliner", "show", "job", str(job_id)])
        return dict(re.findall(r"(\w+(?:/\w+)?)=(\S*)", text))

    def wait(self, job_id: str | int, *states: str, seconds: float = 300) -> Mapping[str, str]:
        """Return the job's fields once it is in one of ``states`` (default: any final one)."""
        wanted = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE")
        end = time.monotonic() + seconds
        while (job := self.job(job_id))["JobState"] not in wanted:
            if time.monotonic() > end:
                raise SlurmError(f"job {job_id} is {job['JobState']}, not {wanted}: {job}\n{self.log()}")
            time.sleep(0.2)
        return job

    def processes_of_job(self, job_id: str) -> list[str]:
        """Return the command lines of a job's processes on all nodes, whatever their parents are by now."""
        found, mark = [], {f"SLURM_JOB_ID={job_id}", f"SLURM_CONF={self.folder}/slurm.conf"}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if mark <= set(environment):
                found.append(command)
        return found

    def log(self) -> str:
        """Return the last lines of every daemon's log."""
        files = sorted(self.folder.glob("*.[lo][ou][gt]"))
        return "\n".join(f"--- {file.name}\n" + "\n".join(file.read_text().splitlines()[-15:]) for file in files)

    def _write_files(self) -> None:
        folder = self.folder
        for name in ("state", "dev", *(f"spool.{node}" for node in self.nodes)):
            (folder / name).mkdir()
        for index in range(NUM_GPUS):
            # A device file makes slurmd hand out CUDA_VISIBLE_DEVICES; this one is /dev/null's.
            os.mknod(folder / "dev" / f"nvidia{index}", mode=0o20666, device=os.makedev(1, 3))
        (folder / "plugstack.conf").write_text("")
        (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/dev/nvidia[0-{NUM_GPUS - 1}]\n")
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        # Every node has a loopback address of its own, as two hosts would.
        hosts = ["127.0.0.1 localhost", *(f"127.0.0.{1 + i} {node}" for i, node in enumerate(self.nodes))]
        (folder / "hosts").write_text("\n".join(hosts) + "\n")
        ports = _free_ports(1 + len(self.nodes))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs=64 RealMemory=1000000 "
            f"Gres=gpu:{NUM_GPUS} State=UNKNOWN"
            for node, port in zip(self.nodes, ports[1:], strict=True)
        )
        host = socket.gethostname().split(".")[0]
        text = _SLURM_CONF.format(host=host, port=ports[0], folder=folder, nodes=nodes, grace=_GRACE_SECONDS)
        (folder / "slurm.conf").write_text(text)

    def _start(self) -> None:
        folder = self.folder
        munge = ["--foreground", f"--socket={folder}/munge.sock", f"--key-file={folder}/munge.key"]
        munge += [
            f"--pid-file={folder}/munge.pid",
            f"--seed-file={folder}/munge.seed",
            f"--log-file={folder}/munge.log",
        ]
        self._spawn("munged.out", [*_NAMESPACE, "munged", "--force", *munge])
        _wait_for(lambda: (folder / "munge.sock").exists(), "munge's socket")
        self._spawn("slurmctld.out", [*_NAMESPACE, "slurmctld", "-D", "-c", "-f", f"{folder}/slurm.conf"])
        for node in self.nodes:
            script = f"mount --bind {folder}/hosts /etc/hosts && hostname {node} && "
            script += f"exec slurmd -D -N {node} -f {folder}/slurm.conf"
            self._spawn(f"slurmd.{node}.out", [*_NAMESPACE, "--uts", "sh", "-c", script])

    def _spawn(self, log: str, command: list[str]) -> None:
        with (self.folder / log).open("wb") as output:
            daemon = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        self._daemons.append(daemon)

    def _wait_until_idle(self) -> None:
        def is_idle() -> bool:
            lines = set(self.run(["sinfo", "--noheader", "--Node", "--format=%N %T"], check=False).splitlines())
            return lines == {f"{node} idle" for node in self.nodes}

        try:
            _wait_for(is_idle, "idle nodes")
        except SlurmError as error:
            raise SlurmError(f"{error}\n{self.log()}") from error


def _wait_for(is_done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _START_SECONDS
    while not is_done():
        if time.monotonic() > end:
            raise SlurmError(f"waited {_START_SECONDS:.0f} s for {what}")
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    """Return distinct ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
