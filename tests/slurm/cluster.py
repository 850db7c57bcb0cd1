"""A true Slurm on this machine, for as long as a test needs it: a controller, two nodes with pretend GPUs, and accounting.

Nothing of it lives outside one folder but its processes, which listen on free ports of 127.0.0.1, and the programs, which
are Debian's (`PACKAGES`). The nodes are larger than the machine: Slurm counts what a job asks for, not what there is.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

PACKAGES = ("munge", "mariadb-server-core", "mariadb-client-core", "slurmdbd", "slurmctld", "slurmd", "slurm-client")
PROGRAMS = (
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "my_print_defaults",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "sbatch",
    "sacct",
)
# Any character device passes for a GPU; the jobs see an index in CUDA_VISIBLE_DEVICES and never open it.
NODES = ("cpu01", "gpu01")
PRETEND_GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
# Seconds after which a client call has failed; they wait long for a controller that is away.
CLIENT_TIMEOUT = 30
# Loaded here, as it must not be between a fork and its exec.
LIBC = ctypes.CDLL(None)

SLURM_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld}
SlurmUser=root
SlurmdUser=root
# A requeued job starts again when the credential of its first start has expired.
AuthInfo=socket={root}/munge.sock,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
SlurmctldTimeout=30
SlurmdTimeout=30
ReturnToService=2
KillWait=2
MinJobAge=300
# No cgroups, which a container does not have: processes are told apart by their parents.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# Memory is polled each second, and a job above its request is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
# slurmdbd's clients look here for munge's socket, not in AuthInfo.
AccountingStoragePass={root}/munge.sock
AccountingStorageTRES=gres/gpu
# Jobs are told by their comment, which names the rule and its wildcards.
AccountingStoreFlags=job_comment
NodeName=cpu01 NodeHostname={host} NodeAddr=127.0.0.1 Port={cpu01} CPUs=16 RealMemory=256000
NodeName=gpu01 NodeHostname={host} NodeAddr=127.0.0.1 Port={gpu01} CPUs=32 RealMemory=512000 Gres=gpu:h200:{gpus}
# As profiles/slurm names them.
PartitionName=cpu Nodes=cpu01 Default=YES MaxTime=2-00:00:00 DefaultTime=1 DefMemPerCPU=100
PartitionName=gpu Nodes=gpu01 MaxTime=2-00:00:00 DefaultTime=1 DefMemPerCPU=100
"""

SLURMDBD_CONF = """
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={slurmdbd}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
LogFile={root}/log/slurmdbd.log
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadbd}
StorageUser=root
StorageLoc=slurm_accounting
"""

# The plugin's job step strips SLURM_CONF from the environment of its `srun`.
SRUN = """#!/bin/sh
SLURM_CONF={root}/etc/slurm.conf exec {srun} "$@"
"""


def missing() -> list[str]:
    """The programs that this machine lacks."""
    return [program for program in PROGRAMS if not shutil.which(program)]


def install() -> None:
    """Install Debian's packages; without their recommendations, none of them starts a service that stays."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-qq", *command], env=quiet, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise RuntimeError(f"apt-get {' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends (PR_SET_PDEATHSIG)."""
    LIBC.prctl(1, signal.SIGKILL)


@dataclass(frozen=True)
class Record:
    """One start of a job, as `sacct` tells it."""

    job: str
    comment: str
    partition: str
    state: str
    requested: Mapping[str, str]
    minutes: int
    start: float
    end: float
    node: str

    @classmethod
    def parse(cls, line: str) -> "Record":
        """Read a line of `sacct --parsable2` in the order of `FIELDS`."""
        job, comment, partition, state, requested, minutes, start, end, node = line.split("|")
        tres = dict(pair.split("=") for pair in requested.split(","))
        return cls(job, comment, partition, state, tres, int(minutes), seconds(start), seconds(end), node)

    @property
    def rule(self) -> str:
        return self.comment.removeprefix("rule_").split("_wildcards_")[0]

    @property
    def resources(self) -> dict[str, object]:
        """What was asked for, in the words of the rules: threads, memory in MB, minutes, GPUs, partition."""
        return {
            "slurm_partition": self.partition,
            "gpu": int(self.requested.get("gres/gpu", 0)),
            "threads": int(self.requested["cpu"]),
            "mem_mb": int(self.requested["mem"].removesuffix("M")),
            "runtime": self.minutes,
        }


FIELDS = ("JobIDRaw", "Comment", "Partition", "State", "ReqTRES", "TimelimitRaw", "Start", "End", "NodeList")


def seconds(told: str) -> float:
    """Slurm's local time as seconds since 1970; 0 where there is none yet."""
    return 0.0 if told in ("Unknown", "None") else datetime.fromisoformat(told).timestamp()


def table(records: list[Record]) -> str:
    """The records as text, one line for each."""
    head = ("job", "rule and wildcards", "partition", "requested", "minutes", "node", "state", "start", "elapsed")
    rows = [head] + [
        (
            record.job,
            record.comment.removeprefix("rule_").replace("_wildcards_", " "),
            record.partition,
            ",".join(f"{key}={value}" for key, value in record.requested.items() if key not in ("billing", "node")),
            str(record.minutes),
            record.node,
            record.state,
            datetime.fromtimestamp(record.start).strftime("%H:%M:%S") if record.start else "-",
            f"{record.end - record.start:.0f} s" if record.start and record.end else "-",
        )
        for record in records
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


@dataclass
class Cluster:
    """The cluster whose files are under `root`; a context manager that brings it up and takes it down."""

    root: Path
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs, and a Snakemake that is one."""
        return {"SLURM_CONF": str(self.root / "etc/slurm.conf"), "PATH": f"{self.root}/bin:{os.environ['PATH']}"}

    def __enter__(self) -> "Cluster":
        try:
            self.configure()
            self.start_accounting()
            self.start("slurmctld", "-D")
            for node in NODES:
                self.start(node, "-D", "-N", node, program="slurmd")
            wait_for(lambda: self.idle(NODES), "the nodes to be idle")
        except BaseException:
            self.stop()
            print(self.logs())
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def configure(self) -> None:
        """Write the configuration, with ports that are free now."""
        for folder in ("etc", "bin", "log", "state", "mysql"):
            (self.root / folder).mkdir(parents=True)
        values = {"host": socket.gethostname().split(".")[0], "root": self.root, "gpus": len(PRETEND_GPUS)}
        values |= free_ports("slurmctld", "slurmdbd", "mariadbd", *NODES)
        gpus = "".join(f"NodeName=gpu01 Name=gpu Type=h200 File={device}\n" for device in PRETEND_GPUS)
        for name, text in {"slurm": SLURM_CONF, "slurmdbd": SLURMDBD_CONF, "gres": "AutoDetect=off\n" + gpus}.items():
            path = self.root / f"etc/{name}.conf"
            path.write_text(text.format(**values))
            path.chmod(0o600)  # slurmdbd refuses a file that others can read
        srun = self.root / "bin/srun"
        srun.write_text(SRUN.format(root=self.root, srun=shutil.which("srun")))
        srun.chmod(0o755)
        key = self.root / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        self.database_port = values["mariadbd"]

    def start(self, name: str, *arguments: str, program: str = "") -> None:
        """Start a daemon in the foreground of a process of its own."""
        with (self.root / f"log/{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [program or name, *arguments],
                env={**os.environ, **self.environment, "CLUSTER_DAEMON": name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def start_accounting(self) -> None:
        """Start munge, a MariaDB on an empty folder and slurmdbd, which makes its own tables."""
        munge = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "log/munged.log"}
        munge["seed-file"] = "munged.seed"
        # --force: the folder may be one that others cannot enter, which munge takes for a mistake.
        self.start("munged", "--foreground", "--force", *(f"--{key}={self.root / file}" for key, file in munge.items()))
        where = ("--no-defaults", f"--datadir={self.root}/mysql", "--user=root")
        create = ["mariadb-install-db", *where, "--skip-test-db", "--auth-root-authentication-method=normal"]
        with (self.root / "log/mariadb-install.log").open("wb") as log:
            subprocess.run(create, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=120, check=True)
        options = ("--bind-address=127.0.0.1", f"--port={self.database_port}", f"--socket={self.root}/mysql.sock")
        self.start("mariadbd", *where, *options, "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900")
        wait_for(lambda: listens(self.database_port), "MariaDB")
        self.start("slurmdbd", "-D")
        wait_for(lambda: not self.client("sacctmgr", "-i", "add", "cluster", "tests").returncode, "slurmdbd")

    def client(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run one of Slurm's commands, whatever comes of it."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=CLIENT_TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints; it must succeed."""
        done = self.client(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def idle(self, nodes: tuple[str, ...]) -> bool:
        """Whether these nodes are up with nothing to do."""
        told = self.client("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").stdout
        return set(nodes) <= set(told.split())

    def records(self, since: float = 0) -> list[Record]:
        """Every start of every job submitted since a time, the oldest first; a requeued job has one for each start."""
        since_text = datetime.fromtimestamp(since).strftime("%Y-%m-%dT%H:%M:%S") if since else "1970-01-01"
        told = self.ask(
            *("sacct", "--allocations", "--duplicates", "--parsable2", "--noheader", "--noconvert"),
            *("--starttime", since_text, "--format", ",".join(FIELDS)),
        )
        return [Record.parse(line) for line in told.splitlines()]

    def running(self, text: str) -> list[str]:
        """Ids of the running jobs whose comment contains a text, as the controller tells them."""
        told = self.client("squeue", "-h", "-t", "running", "-o", "%i|%k").stdout
        return [line.split("|")[0] for line in told.splitlines() if text in line.split("|", 1)[1]]

    def kill(self, name: str) -> None:
        """End a daemon with SIGKILL."""
        self.daemons[name].kill()
        self.daemons[name].wait()

    def kill_controller(self, job: str) -> None:
        """End the controller with SIGKILL, once it has saved that this job runs, which it does every few seconds.

        A start that it forgets it would repeat, and drain the node on which the job turns out to run already.
        """
        state, now = self.root / "state/job_state", time.time()
        self.ask("scontrol", "update", f"JobId={job}", "AdminComment=to be saved")
        wait_for(lambda: state.exists() and state.stat().st_mtime > now, "the controller to save its state")
        self.kill("slurmctld")

    def kill_node(self, node: str) -> None:
        """End a node's daemon, its job steps and its jobs with SIGKILL, as a power cut would, and say that it is down.

        The controller would find out by itself, in half a minute to two; an administrator who knows says so.
        """
        self.kill(node)
        for pid, environment in self.processes():
            # Its job steps have the daemon's environment, its jobs the submitter's and the name of the node.
            if f"CLUSTER_DAEMON={node}" in environment or f"SLURMD_NODENAME={node}" in environment:
                os.kill(pid, signal.SIGKILL)
        self.ask("scontrol", "update", f"NodeName={node}", "State=down", "Reason=no power")

    def processes(self) -> list[tuple[int, list[str]]]:
        """Process ids and environments of everything that belongs to this cluster: daemons, job steps, jobs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                environment = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended meanwhile
                continue
            if int(path.parent.name) != os.getpid() and f"SLURM_CONF={self.root}/etc/slurm.conf" in environment:
                found.append((int(path.parent.name), environment))
        return found

    def stop(self) -> None:
        """End every process of the cluster, whatever state it is in."""
        if "slurmctld" in self.daemons and self.daemons["slurmctld"].poll() is None:
            self.client("scancel", "--user=root")
        for name in reversed(list(self.daemons)):
            self.daemons[name].terminate()
            try:
                self.daemons[name].wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill(name)
        for pid, _ in self.processes():
            os.kill(pid, signal.SIGKILL)

    def logs(self) -> str:
        """The end of every log."""
        paths = sorted((self.root / "log").iterdir())
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in paths)


def free_ports(*names: str) -> dict[str, int]:
    """A port of 127.0.0.1 for each name that nothing listens on."""
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
    ports = {name: server.getsockname()[1] for name, server in sockets.items()}
    for server in sockets.values():
        server.close()
    return ports


def listens(port: int) -> bool:
    """Whether something accepts connections at a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
