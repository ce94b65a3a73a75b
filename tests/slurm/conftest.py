"""The cluster that the tests in this folder share, and a run's folder with its site file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import SlurmCluster, missing_requirement

# Tiny runs and text for tests stand with the integration tests.
sys.path.append(str(Path(__file__).parents[1] / "integration"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    reason = missing_requirement()
    if reason is not None:
        pytest.skip(f"no Slurm cluster can be started here: {reason}")
    with SlurmCluster(num_nodes=2) as running:
        yield running


class Login:
    """A user on the login node: a folder with a site file, and the command line."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        site = {
            "account": None,
            "partition": "main",
            "time_limit": "01:00:00",
            "venv": sys.prefix,
            "hf_home": None,
            "cpus_per_node": 2,
        }
        (folder / "slurm_site.yaml").write_text(yaml.safe_dump(site))

    def zagreus(self, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command line in the folder and expect an exit code."""
        done = subprocess.run(
            [sys.executable, "-c", "from nanotron_zagreus.cli.app import main; main()", *map(str, arguments)],
            cwd=self.folder,
            env=self.cluster.environment | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def submit(self, config: Path, *options: str | Path, nodes: int = 2, gpus: int = 1) -> dict[str, str]:
        """Submit a run and return job name -> job id."""
        sizes = ("--nodes", str(nodes), "--gpus-per-node", str(gpus))
        done = self.zagreus("slurm", "submit", "--config-file", config, *sizes, "--json", *options)
        return json.loads(done.stdout)["jobs"]

    def wait_until(self, is_so: Callable[[], bool], seconds: float = 60) -> None:
        """Return once something is so."""
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, f"waited {seconds} s\n{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        """Return everything the jobs wrote."""
        files = sorted(self.folder.rglob("*.log"))
        return "\n".join(f"--- {file.relative_to(self.folder)}\n{file.read_text()[-6000:]}" for file in files)

    def events(self, root: Path) -> list[dict[str, Any]]:
        """Return the lines of a run's metrics.jsonl that are whole."""
        path = root / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]


@pytest.fixture
def login(cluster: SlurmCluster, tmp_path: Path) -> Login:
    return Login(cluster, tmp_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
