"""The time of a base in a runtime before anything is trained: an untrained head on it, built as a rung is built.

Border: builds and times one variant; imports the training libraries. What the times mean is foretelling.py's matter.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from millis.backends import Backend, BackendSettings, backends
from millis.backends.encoder import LayerShape, find_parts, shrink
from millis.backends.grafts import graft
from millis.bundles import LatencyRow, Model, Rung
from millis.measuring.table import measure_table
from millis.models.taggers import build_tagger
from millis.searching.candidates import Variant
from millis.searching.layers import build_to_time
from millis.tasks import Task
from millis.training.methods import METHODS


class UntrainedBase:
    """A base with an untrained head, and with what adapting would leave in its graph, in a scratch folder.

    Args:
        adapt: how it is to be adapted, a name in METHODS.

    Usage:
        with UntrainedBase(folder, task=task) as untrained:
            rows = untrained.time(variant, buckets=(16, 128))
    """

    def __init__(self, base: Path, *, task: Task, adapt: str) -> None:
        self._base, self._task, self._adapt = base, task, adapt
        self._scratch = tempfile.TemporaryDirectory(prefix="millis-advise-")

    def __enter__(self) -> "UntrainedBase":
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def time(
        self, variant: Variant, *, buckets: Sequence[int], rows: int = 1, without_layers: bool = False
    ) -> tuple[LatencyRow, ...]:
        """Build what is not built yet, and time it at each bucket.

        Args:
            rows: windows of one text that run together.
            without_layers: of the network whose layers have kept nothing: what no pruning takes away.
        Raises:
            InvalidBase: the weights do not load.
        """
        folder = Path(self._scratch.name) / ("rest" if without_layers else "whole") / variant.backend
        if not (folder / variant.precision).is_dir():
            self._build(variant, folder, without_layers=without_layers)
        static = tuple(buckets) if variant.is_bucketed else None
        rung = Rung(
            name=variant.name, backend=variant.backend, precision=variant.precision, folder=f"rungs/{variant.name}",
            threads=variant.threads, buckets=static, rows=rows,
        )  # fmt: skip
        backend: Backend = backends[variant.backend]()
        settings = BackendSettings(threads=variant.threads, buckets=static, rows=rows)
        backend.load(folder / variant.precision, settings=settings)
        model = Model(self._task, backend, rung=rung, name=self._base.name)
        try:
            return measure_table(model, buckets)
        finally:
            model.close()

    def _build(self, variant: Variant, folder: Path, *, without_layers: bool) -> None:
        tagger = build_tagger(self._base, head=self._task.head, seed=0)
        method = METHODS[self._adapt]
        if method.note:
            graft(tagger.network, self._adapt, size=min(method.size, tagger.longest))
        tagger.eval().float()
        tagger.network.set_attn_implementation("eager")
        if without_layers:
            shrink(tagger.network, [LayerShape(0, 0)] * (len(find_parts(tagger.network)) // 2))
        build_to_time(tagger, runtime=variant.runtime, folder=folder)
