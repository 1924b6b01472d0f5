"""A backend without a model: deterministic logits from token ids, with delays to set.

A normal choice for testing servers and for measuring what the server itself costs. It can batch as a device does: one
batch at a time, whoever asks, on a thread of its own.
Border: reads fake.json, {"labels": K, "delay_ms": 0.0, "rows": R or null, "is_across": false, "token_ms": 0.0,
"batching": {"max_rows": 32, "max_tokens": 1024} or null}.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from millis.backends.backend import BackendSettings, Batch, Batching
from millis.errors import InvalidBundle, InvalidValue

FILE = "fake.json"

Answer = dict[str, NDArray[np.float32]]


def write_fake(
    folder: Path, *, labels: int, delay_ms: float = 0.0, rows: int | None = None, is_across: bool = False,
    token_ms: float = 0.0, batching: Batching | None = None,
) -> None:  # fmt: skip
    """Write the files of a fake model with K = labels outputs: of each token; with rows, of the whole text; or
    each of them across the tokens.

    Args:
        delay_ms: of each run, whatever is in it.
        token_ms: of each token of a run, padding included.
        batching: what its device takes at once, None where there is no device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "labels": labels, "delay_ms": delay_ms, "rows": rows, "is_across": is_across, "token_ms": token_ms,
        "batching": asdict(batching) if batching is not None else None,
    }  # fmt: skip
    (folder / FILE).write_text(json.dumps(content))


class FakeBackend:
    """Logits that depend on each token id alone, so padding and neighbours cannot matter."""

    name = "fake"
    batching: Batching | None = None

    def load(self, folder: Path, *, settings: BackendSettings) -> None:
        """Read fake.json; the device is always "cpu"."""
        if settings.device != "cpu":
            raise InvalidValue(f"backend fake has no device {settings.device!r}: it knows cpu.")
        try:
            content = json.loads((folder / FILE).read_text())
            self._n_labels, self._delay_s = int(content["labels"]), float(content["delay_ms"]) / 1000
            self._rows, self._is_across = content.get("rows"), content.get("is_across", False)
            self._token_s = float(content.get("token_ms", 0.0)) / 1000
            self.batching = Batching(**content["batching"]) if content.get("batching") else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidBundle(f"{FILE} cannot be read ({type(error).__name__}): make the bundle anew.") from error
        self._table = _draw_table(self._n_labels)
        self._device = ThreadPoolExecutor(1, thread_name_prefix="fake-device") if self.batching is not None else None

    def run(self, batch: Batch) -> Answer:
        """Give logits, each token's a fixed function of its id; of a whole text their mean."""
        return self._run(batch) if self._device is None else self._device.submit(self._run, batch).result()

    def close(self) -> None:
        """End the device's thread."""
        if self._device is not None:
            self._device.shutdown()

    def _run(self, batch: Batch) -> Answer:
        delay_s = self._delay_s + self._token_s * batch["input_ids"].size
        if delay_s:
            time.sleep(delay_s)
        logits = self._table[batch["input_ids"] % len(self._table)]
        if self._is_across:
            is_real = batch["attention_mask"][:, None, :].astype(bool)
            return {"logits": np.where(is_real, logits.swapaxes(1, 2), np.float32(-1e4))}
        if self._rows is None:
            return {"logits": logits}
        weights = batch["attention_mask"][:, :, None].astype(np.float32)
        mean = (logits * weights).sum(1) / weights.sum(1)
        return {"logits": mean.reshape(len(mean), self._rows, -1)}


def _draw_table(n_labels: int) -> NDArray[np.float32]:
    """Give logits by token id, (997, K): label 0 mostly, as in text, the others now and then."""
    ids = np.arange(997)
    table = ((ids[:, None] * 31 + np.arange(n_labels) * 7919) % 101 / 101).astype(np.float32)
    table[ids % 8 != 0, 0] += 4.0
    return table
