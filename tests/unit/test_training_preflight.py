"""What a launch refuses of its checkpoints folder before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanotron_zagreus.errors import InputError
from nanotron_zagreus.training.preflight import check_before_start
from tests.unit.data_fixtures import make_config, write_source


@pytest.mark.parametrize("path", ["checkpoints", "checkpoints/deeper"])
def test_a_checkpoints_folder_behind_a_dangling_link_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path / "a", [10])
    config = make_config([{"dataset": {"dataset_folder": "a"}}], checkpoints={"checkpoints_path": path})
    check_before_start(config, 1)
    Path("checkpoints").symlink_to("/nonexistent/disk")
    with pytest.raises(InputError, match=r"checkpoints_path: .*is a link to /nonexistent/disk, which does not exist"):
        check_before_start(config, 1)
