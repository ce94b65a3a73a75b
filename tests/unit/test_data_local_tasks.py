"""Tasks in processes of their own: how many threads each may use."""

import os

import pytest

from nanotron_zagreus.data import local_tasks


@pytest.mark.parametrize(("given", "expected"), [(None, "3"), ("7", "7")])
def test_a_task_uses_its_share_of_the_cores_unless_told_otherwise(given, expected, monkeypatch):
    """Or N tasks of tokenizers would start N times as many threads as there are cores."""
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("RAYON_NUM_THREADS", given)
    monkeypatch.setattr(local_tasks.signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(local_tasks.sys, "stderr", local_tasks.sys.stderr)
    seen = []

    class Executor:
        def _run_for_rank(self, rank, local_rank):
            seen.append(os.environ["RAYON_NUM_THREADS"])

    local_tasks._run_task(Executor(), 0, 3)
    os.environ.pop("RAYON_NUM_THREADS", None)
    assert seen == [expected]
