"""What one inference of an encoder has to do: operations, and bytes that it must read at least once.

Border: sizes out of a config.json; no weights are loaded and nothing is timed.
Limits: matrices and attention only, which are nearly all (the bytes of a prefix or prompt are not in it);
as if every matrix were in one precision.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from millis.backends.encoder import KEY, POOLED
from millis.backends.grafts import KEY as GRAFT
from millis.errors import InvalidBase


@dataclass(frozen=True, slots=True)
class Work:
    """The sizes that decide the work of a tagger.

    Args:
        matrices: weights of all matrices outside the embedding table.
        attended: heads of all layers times the size of a head.
        row: numbers in a row of the embedding table.
        layers, width: how many layers, and how wide the states between them.
        inside: weights of the matrices in layers, which a prompt goes through too.
        prompt, prefix: vectors in front of the text's, and keys in front of each attention's.
    """

    matrices: int
    attended: int
    row: int
    layers: int
    width: int
    inside: int = 0
    prompt: int = 0
    prefix: int = 0

    def operations(self, tokens: int) -> int:
        """Count multiplications and additions for one text of so many tokens."""
        places = tokens + self.prompt
        matrices = 2 * tokens * self.matrices + 2 * self.prompt * self.inside
        return matrices + 4 * places * (places + self.prefix) * self.attended

    def n_bytes(self, tokens: int, *, weight_bytes: int, row_bytes: int) -> int:
        """Count the bytes of all matrices and of a text's rows in the table.

        Args:
            weight_bytes, row_bytes: of one number in a matrix, and in the table.
        """
        return self.matrices * weight_bytes + tokens * self.row * row_bytes


def read_work(folder: Path) -> Work:
    """Read the sizes of a tagger or a base in Hugging Face layout, pruned or whole.

    Raises:
        InvalidBase: config.json does not say one of them.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))

    def size(*names: str) -> int:
        found = next((config[name] for name in names if name in config), None)
        if not isinstance(found, int):
            raise InvalidBase(
                f"{folder.name}/config.json has no whole number as {names[0]}: copy it again from where the base came."
            )
        return found

    width, heads = size("hidden_size", "dim"), size("num_attention_heads", "n_heads")
    whole = [heads, size("intermediate_size", "hidden_dim")]
    layers = config.get(KEY) or [whole] * size("num_hidden_layers", "n_layers")
    attended = sum(kept for kept, _ in layers) * (width // heads)
    channels = sum(kept for _, kept in layers)
    row = int(config.get("embedding_size") or width)  # ELECTRA's may be narrower, and is widened by a matrix
    widening = row * width if row != width else 0
    labels = 0 if config.get(POOLED) else len(config.get("id2label", ()))
    added = config.get(GRAFT) or {"kind": None, "size": 0}
    sizes = {kind: int(added["size"]) if added["kind"] == kind else 0 for kind in ("adapter", "prefix", "prompt")}
    inside = width * (4 * attended + 2 * channels + 2 * 2 * sizes["adapter"] * len(layers))
    return Work(
        matrices=inside + width * labels + widening, attended=attended, row=row, layers=len(layers), width=width,
        inside=inside, prompt=sizes["prompt"], prefix=sizes["prefix"],
    )  # fmt: skip
