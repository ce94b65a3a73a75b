"""Who this process is among the ranks, and who writes what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed

from nanotron_zagreus.engine import launch
from nanotron_zagreus.errors import InputError, agreed


@dataclass(frozen=True, kw_only=True)
class RankLayout:
    """This rank's place, and the duties that follow from it."""

    rank: int
    dp: int
    tp: int
    pp: int
    dp_size: int
    tp_size: int
    pp_size: int
    node: int
    """torchrun's node number (GROUP_RANK)."""
    is_leader: bool
    """Whether this rank makes and renames folders: rank 0; without a shared file system, each node's first rank."""
    writes_model: bool
    """Whether this rank writes its part of the weights: one replica per file system does."""

    @property
    def topology(self) -> dict[str, int]:
        """The sizes in which ranks divide the work, as a manifest records them."""
        return {"dp": self.dp_size, "tp": self.tp_size, "pp": self.pp_size}

    @property
    def random_state_file(self) -> Path:
        """Where a checkpoint keeps this rank's random states, below the step's folder."""
        return Path("random") / f"{self.suffix(with_dp=True)}.safetensors"

    def suffix(self, *, with_dp: bool) -> str:
        """Return the part of a file name that tells ranks apart, in Nanotron's order."""
        dp = f"_dp-{self.dp}-of-{self.dp_size}" if with_dp else ""
        return f"pp-{self.pp}-of-{self.pp_size}{dp}_tp-{self.tp}-of-{self.tp_size}"


def layout_of(parallel_context: Any, *, shared_file_system: bool) -> RankLayout:
    """Return this rank's layout; every rank calls it (it exchanges the ranks' places).

    Raises:
        InputError: without a shared file system, a replica's ranks sit on several nodes.
    """
    rank, node = distributed.get_rank(), launch.node()
    groups = [getattr(parallel_context, name) for name in ("pp_pg", "dp_pg", "tp_pg")]
    pp, dp, tp = (distributed.get_rank(group) for group in groups)
    places: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(places, (node, dp, pp, tp, rank))
    if shared_file_system:
        is_leader, writes_model = rank == 0, dp == 0
    else:
        nodes = {place[1]: {p[0] for p in places if p[1] == place[1]} for place in places}
        spread = [replica for replica, where in nodes.items() if len(where) > 1]
        if spread:
            raise agreed(
                InputError(
                    f"checkpoints.checkpoints_path_is_shared_file_system: false, but replica {spread[0]} (tp x pp "
                    f"ranks) sits on nodes {sorted(nodes[spread[0]])}; each node would save only a part; use a shared "
                    "file system"
                )
            )
        here = [place for place in places if place[0] == node]
        is_leader = rank == min(place[4] for place in here)
        writes_model = dp == min(place[1] for place in here)
    return RankLayout(
        rank=rank,
        dp=dp,
        tp=tp,
        pp=pp,
        dp_size=groups[1].size(),
        tp_size=groups[2].size(),
        pp_size=groups[0].size(),
        node=node,
        is_leader=is_leader,
        writes_model=writes_model,
    )
