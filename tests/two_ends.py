"""How files of tests are shared by two workers: one takes them from the front, one from the end.

Files that lie together share fixtures that take seconds (a store, a run, one walk through all
commands) and compiled kernels. Dealt out by turns, both workers would make each of these.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadFileScheduling


class FromBothEnds(LoadFileScheduling):
    """Whole files, as `--dist loadfile` has them, in the order in which they lie."""

    def __init__(self, config: Any, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _assign_work_unit(self, node: Any) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)
