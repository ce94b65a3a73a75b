"""Two hosts made of namespaces: each has a network, a name and processes of its own; only a cable joins them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stoppable import Stoppable

HOSTS = {"hosta": "10.77.0.1", "hostb": "10.77.0.2"}
_ISOLATED = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--net",
    "--uts",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
)


class TwoHosts(Stoppable):
    """The two hosts; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._hosts_file = folder / "hosts"
        self._anchors: dict[str, subprocess.Popen[bytes]] = {}
        self._inits: dict[str, int] = {}

    def start(self) -> None:
        """Start both hosts and join them."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in HOSTS.items())]
        self._hosts_file.write_text("\n".join(lines) + "\n")
        for name in HOSTS:
            self._start(name)
        self._lay_cable()

    def stop(self) -> None:
        """End both hosts with every process on them."""
        for anchor in self._anchors.values():
            anchor.send_signal(signal.SIGKILL)
            anchor.wait()

    def run(self, host: str, command: Sequence[str | Path], **environment: str) -> subprocess.Popen[str]:
        """Start a command on a host."""
        return subprocess.Popen(
            [*self._inside(host), *map(str, command)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _start(self, name: str) -> None:
        script = f"mount --bind {self._hosts_file} /etc/hosts && hostname {name} && ip link set lo up && "
        script += "echo up && exec sleep infinity"
        anchor = subprocess.Popen([*_ISOLATED, "sh", "-c", script], stdout=subprocess.PIPE)
        self._anchors[name] = anchor
        assert anchor.stdout is not None
        assert anchor.stdout.readline() == b"up\n", f"{name} did not start"
        (child,) = Path(f"/proc/{anchor.pid}/task/{anchor.pid}/children").read_text().split()
        self._inits[name] = int(child)

    def _lay_cable(self) -> None:
        first, second = HOSTS
        self._shell(
            first, f"ip link add eth0 type veth peer name cable && ip link set cable netns {self._inits[second]}"
        )
        self._shell(second, "ip link set cable name eth0")
        for name, address in HOSTS.items():
            self._shell(name, f"ip address add {address}/24 dev eth0 && ip link set eth0 up")

    def _shell(self, host: str, script: str) -> None:
        # The network alone is entered: names and numbers of processes stay those of this host.
        target = str(self._inits[host])
        subprocess.run(["nsenter", "--target", target, "--net", "sh", "-c", script], check=True)

    def _inside(self, host: str) -> list[str]:
        return ["nsenter", "--target", str(self._inits[host]), "--net", "--uts", "--mount", "--pid", "--"]
