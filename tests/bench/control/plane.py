"""A whole control plane as plain processes on loopback: etcd, API server, controller manager, scheduler, KWOK's nodes.

Every program is the real one, with its stock settings; none needs a container. Each talks to the API server as a user of
its own, so that the audit log tells who wrote what.
"""

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BINARIES = Path(os.environ.get("TRAINWRIGHT_CACHE", Path.home() / ".cache" / "trainwright")) / "kind" / "bin"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
OPERATOR = "system:serviceaccount:trainwright:operator"
BARE = "system:serviceaccount:trainwright:bare"
"""The operator and the bare client pass the same admission, authorization and fair queueing as any service account."""
USERS = {
    "admin": ("admin", "system:masters"),
    "operator": (OPERATOR, "system:serviceaccounts,system:serviceaccounts:trainwright"),
    "bare": (BARE, "system:serviceaccounts,system:serviceaccounts:trainwright"),
    "kube-controller-manager": ("system:kube-controller-manager", "system:masters"),
    "kube-scheduler": ("system:kube-scheduler", "system:masters"),
    "kwok": ("kwok", "system:masters"),
}
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [OPERATOR]}, {"level": "None"}],
}


class Process:
    """A program that was started here, and its log."""

    def __init__(self, name: str, command: list[str], folder: Path, **environment: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True
            )
        self.pid = self._popen.pid
        self.started = time.monotonic()

    def check(self) -> None:
        """Raise RuntimeError with the end of the log if the program has ended."""
        if self._popen.poll() is not None:
            raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL it and wait for its end."""
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> None:
        """SIGTERM it, or else SIGKILL."""
        self._popen.terminate()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Return its resident memory in MiB."""
        line = next(line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if "VmRSS" in line)
        return int(line.split()[1]) / 1024


class Plane:
    """A running control plane.

    Attributes:
        url: Where the API server listens.
        folder: Holds data, logs and kubeconfigs of this run.
        processes: By name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"https://127.0.0.1:{free_port()}"
        self.processes: dict[str, Process] = {}
        for user in USERS:
            self._write_kubeconfig(user)

    def kubeconfig(self, user: str) -> str:
        """Return the path of the user's kubeconfig."""
        return str(self.folder / f"{user}.kubeconfig")

    def token(self, user: str) -> str:
        """Return the user's bearer token."""
        return f"bench-{user}"

    def start(self) -> None:
        """Start everything and wait until the API server is ready."""
        etcd = f"http://127.0.0.1:{free_port()}"
        peer = f"http://127.0.0.1:{free_port()}"
        self._run("etcd", *_flags(_etcd_flags(self.folder, etcd, peer)))
        self._run("kube-apiserver", *_flags(self._apiserver_flags(etcd)))
        self._await_ready()
        self._run(
            "kube-controller-manager",
            *_flags(
                {
                    "kubeconfig": self.kubeconfig("kube-controller-manager"),
                    "leader-elect": "false",
                    "bind-address": "127.0.0.1",
                    "secure-port": free_port(),
                    "service-account-private-key-file": self.folder / "sa.key",
                    "cert-dir": self.folder / "controller-manager",
                }
            ),
        )
        self._run(
            "kube-scheduler",
            *_flags(
                {
                    "kubeconfig": self.kubeconfig("kube-scheduler"),
                    "leader-elect": "false",
                    "bind-address": "127.0.0.1",
                    "secure-port": free_port(),
                    "cert-dir": self.folder / "scheduler",
                }
            ),
        )
        kwok = {"kubeconfig": self.kubeconfig("kwok"), "manage-all-nodes": "true", "config": HERE / "stages.yaml"}
        self._run("kwok", *_flags({**kwok, "node-lease-duration-seconds": 200}))

    def stop(self) -> None:
        """End everything, last started first."""
        for process in reversed(self.processes.values()):
            process.stop()

    def writes(self) -> list[dict[str, object]]:
        """Return what the audit log says of the operator's requests that change something, leases apart."""
        path = self.folder / "audit.log"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [
            entry
            for entry in entries
            if entry["verb"] in ("create", "update", "patch", "delete", "deletecollection")
            and entry["objectRef"]["resource"] not in ("leases", "tokenreviews")
        ]

    def _run(self, name: str, *flags: str) -> None:
        self.processes[name] = Process(name, [str(BINARIES / name), *flags], self.folder)

    def _apiserver_flags(self, etcd: str) -> dict[str, object]:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / "sa.key").write_bytes(pem)
        lines = (f'{self.token(user)},{name},{name},"{groups}"\n' for user, (name, groups) in USERS.items())
        (self.folder / "tokens.csv").write_text("".join(lines))
        (self.folder / "audit.yaml").write_text(yaml.safe_dump(AUDIT))
        return {
            "etcd-servers": etcd,
            "bind-address": "127.0.0.1",
            "secure-port": self.url.rpartition(":")[2],
            "cert-dir": self.folder / "apiserver",
            "token-auth-file": self.folder / "tokens.csv",
            "authorization-mode": "Node,RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self.folder / "sa.key",
            "service-account-signing-key-file": self.folder / "sa.key",
            "service-cluster-ip-range": "10.0.0.0/16",
            "audit-policy-file": self.folder / "audit.yaml",
            "audit-log-path": self.folder / "audit.log",
            "audit-log-mode": "batch",
            "audit-log-batch-max-wait": "1s",
        }

    def _await_ready(self) -> None:
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token('admin')}"}
        )
        deadline = time.monotonic() + 120
        while True:
            for process in self.processes.values():
                process.check()
            with contextlib.suppress(OSError):
                context = ssl._create_unverified_context()  # noqa: S323 - its certificate was made a moment ago
                with urllib.request.urlopen(request, timeout=2, context=context) as answer:  # noqa: S310
                    if answer.status == 200:
                        return
            if time.monotonic() > deadline:
                raise RuntimeError("kube-apiserver is not ready after two minutes")
            time.sleep(0.2)

    def _write_kubeconfig(self, user: str) -> None:
        # As in a pod: without a CA of its own, each connection would load all of the system's.
        authority = self.folder / "apiserver" / "apiserver.crt"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": self.url, "certificate-authority": str(authority)}}],
            "users": [{"name": "bench", "user": {"token": self.token(user)}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        }
        Path(self.kubeconfig(user)).write_text(yaml.safe_dump(config))


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[Plane]:
    """Lend out a control plane; whatever was started for it ends with it.

    Raises:
        RuntimeError: A program is missing or does not start.
    """
    missing = [name for name in PROGRAMS if not (BINARIES / name).exists()]
    if missing:
        builder = ROOT / "tests" / "kind" / "cluster" / "packages" / "binaries"
        subprocess.run([shutil.which("nice") or "nice", "-n", "10", builder, *missing], check=True)
    plane = Plane(folder)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _etcd_flags(folder: Path, client: str, peer: str) -> dict[str, object]:
    return {
        "data-dir": folder / "etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "log-level": "error",
        "quota-backend-bytes": 4 * 2**30,
    }


def _flags(values: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]
