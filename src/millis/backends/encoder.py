"""The shape of a torch encoder, layer by layer, and how to give it another one.

A pruned encoder is the ordinary transformers network with smaller matrices: fewer heads in a layer's attention, fewer
channels inside its feed-forward. Its config.json says how many under `millis_layers`, [[heads, channels], ...]; a
folder without that key has its full shape. A part that kept nothing leaves its bias behind; a layer that is gone leaves
nothing, and `millis_kept` says which of the base's layers the others are. `millis_rows` there says
that its head speaks of the whole text, `millis_across` that it says which token it is, `millis_pooled` that it has
no head and answers its own hidden state. `millis_second_token_id` is the separator behind which a second text begins,
for a network whose base has two token types.

Border: shapes and modules; which heads and channels go is decided in compressing. Stands beside the torch
backend, which loads such folders, below models, which builds them. Importing it imports torch.
Limits: BERT, RoBERTa, XLM-R, ELECTRA and DistilBERT layers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers.activations import ACT2FN

KEY = "millis_layers"
KEPT = "millis_kept"
ROWS = "millis_rows"
ACROSS = "millis_across"
POOLED = "millis_pooled"
SECOND = "millis_second_token_id"  # trimming a vocabulary renumbers whatever ends so

NOT_THERE = -1e4
"""The logit of a token that is padding: far below all others, and within half precision."""

_BERT = {
    "heads": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "heads_out": "attention.output.dense",
    "channels": ("intermediate.dense",),
    "channels_out": "output.dense",
}
_DISTILBERT = {
    "heads": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "heads_out": "attention.out_lin",
    "channels": ("ffn.lin1",),
    "channels_out": "ffn.lin2",
}


class LayerShape(NamedTuple):
    """How many heads and how many feed-forward channels a layer has."""

    heads: int
    channels: int


class Part:
    """Half a layer: matrices that lead into units (heads or channels), and the one that leads out of them.

    Args:
        layer: the transformers module.
        kind: "heads" or "channels".
        unit: rows of a matrix that one unit takes: the size of a head, or 1.
    """

    def __init__(self, layer: torch.nn.Module, kind: str, *, unit: int, is_distilbert: bool) -> None:
        paths = _DISTILBERT if is_distilbert else _BERT
        self.kind, self.unit = kind, unit
        self._layer, self._into, self._out = layer, paths[kind], paths[f"{kind}_out"]
        self._is_distilbert = is_distilbert

    @property
    def into(self) -> list[torch.nn.Linear]:
        """The matrices into the units."""
        return [_as_linear(self._layer.get_submodule(path)) for path in self._into]

    @property
    def out(self) -> torch.nn.Linear:
        """The matrix out of the units."""
        return _as_linear(self._layer.get_submodule(self._out))

    def replace_out(self, matrix: torch.nn.Linear) -> None:
        """Put another matrix in the place of the one out of the units."""
        self._layer.set_submodule(self._out, matrix)

    @property
    def n_units(self) -> int:
        """How many heads or channels there are; 0 when only the bias is left."""
        out = self._layer.get_submodule(self._out)
        return out.in_features // self.unit if isinstance(out, torch.nn.Linear) else 0

    def keep(self, units: Sequence[int]) -> None:
        """Keep these units, in this order, and drop the others: the matrices become smaller."""
        if not self.n_units:
            return
        rows = torch.tensor([unit * self.unit + i for unit in units for i in range(self.unit)], dtype=torch.long)
        out = self.out
        if not len(rows):
            self._empty(out)
            return
        for path in self._into:
            old = _as_linear(self._layer.get_submodule(path))
            self._layer.set_submodule(path, _make_linear(old.weight[rows], old.bias[rows]))
        self._layer.set_submodule(self._out, _make_linear(out.weight[:, rows], out.bias))

    def _empty(self, out: torch.nn.Linear) -> None:
        constant = Constant(out.bias.detach().clone())
        if self.kind == "channels":
            self._layer.set_submodule(self._into[0], torch.nn.Identity())
            self._layer.set_submodule(self._out, constant)
        elif self._is_distilbert:
            self._layer.set_submodule("attention", _NoHeads(constant))
        else:
            self._layer.set_submodule("attention.self", _NoHeads(None))
            self._layer.set_submodule(self._out, constant)


class Constant(torch.nn.Module):
    """What is left of a matrix without inputs: its bias, (D,)."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Give the bias, whatever comes in; it is broadcast where it is added."""
        return self.bias


class _NoHeads(torch.nn.Module):
    """An attention without heads."""

    def __init__(self, out_lin: Constant | None) -> None:
        super().__init__()
        self.out_lin = out_lin

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        """Give what the library's attention gives."""
        return (hidden_states if self.out_lin is None else self.out_lin(hidden_states)), None


def find_parts(network: Any) -> list[Part]:
    """List the halves of every layer, in order: heads and channels of the first layer, of the second, ..."""
    is_distilbert = network.config.model_type == "distilbert"
    layers = layers_of(network)
    head_size = network.config.hidden_size // network.config.num_attention_heads
    return [
        Part(layer, kind, unit=head_size if kind == "heads" else 1, is_distilbert=is_distilbert)
        for layer in layers
        for kind in ("heads", "channels")
    ]


def keep_layers(network: Any, kept: Sequence[int]) -> None:
    """Keep these of a network's layers, counted from 0, and drop the others whole: their norms go too."""
    place, origins = body_of(network), read_origins(network)
    place.layer = torch.nn.ModuleList(place.layer[i] for i in kept)
    network.config.num_hidden_layers = len(kept)
    setattr(network.config, KEPT, [origins[i] for i in kept])


def read_origins(network: Any) -> tuple[int, ...]:
    """Give which of the base's layers a network's are, counted from 0."""
    return tuple(getattr(network.config, KEPT, None) or range(network.config.num_hidden_layers))


def set_activation(network: Any, name: str) -> None:
    """Give every feed-forward another activation, by the library's name; for weights that are trained afterwards."""
    is_distilbert = network.config.model_type == "distilbert"
    setattr(network.config, "activation" if is_distilbert else "hidden_act", name)
    for layer in layers_of(network):
        if is_distilbert:
            layer.ffn.activation = ACT2FN[name]
        else:
            layer.intermediate.intermediate_act_fn = ACT2FN[name]


def read_activation(config: Any) -> str:
    """Give the activation inside the feed-forwards of a network with this configuration."""
    return str(config.activation if config.model_type == "distilbert" else config.hidden_act)


def read_shape(network: Any) -> tuple[LayerShape, ...]:
    """Give the shape that a network has now."""
    counts = [part.n_units for part in find_parts(network)]
    return tuple(LayerShape(*pair) for pair in zip(counts[::2], counts[1::2], strict=True))


def shrink(network: Any, shape: Sequence[LayerShape]) -> None:
    """Give a network this shape, its first units kept; for weights that are loaded afterwards, or drawn."""
    counts = [count for layer in shape for count in layer]
    for part, count in zip(find_parts(network), counts, strict=True):
        part.keep(range(count))
    record_shape(network)


def record_shape(network: Any) -> None:
    """Write the shape that a network has now into its configuration, for its config.json."""
    setattr(network.config, KEY, [list(layer) for layer in read_shape(network)])


def take_head_off(network: Any) -> None:
    """Take the head away, in place, where `millis_pooled` says that the hidden state itself is the answer."""
    if getattr(network.config, POOLED, None) is not None:
        network.classifier = torch.nn.Identity()


def read_out(logits: torch.Tensor, mask: torch.Tensor, *, config: Any) -> torch.Tensor:
    """Give what a network says of texts, float (B, R, C), of what its head says of each token, (B, T, K).

    A head for whole texts says the mean over the tokens: as the head is linear, that is the head of the mean, the
    pooling that sentence encoders are trained with. Without a head it may be the first token that speaks ("cls").

    Args:
        mask: 1 on real tokens, int64 (B, T).
        config: `millis_rows` in it says how many rows the outputs are dealt out among; `millis_across` that each
            output is a row over the tokens; without either, tokens are spoken of.
    """
    if getattr(config, ACROSS, False):
        return torch.where(mask.bool().unsqueeze(1), logits.transpose(1, 2), NOT_THERE)
    rows: int | None = getattr(config, ROWS, None)
    if rows is None:
        return logits
    if getattr(config, POOLED, None) == "cls":
        return logits[:, :1]
    weights = mask.to(logits.dtype).unsqueeze(-1)
    mean = (logits * weights).sum(1) / weights.sum(1)
    return mean.unflatten(1, (rows, -1))


def find_types(ids: torch.Tensor, *, config: Any) -> dict[str, torch.Tensor]:
    """Give token types, int64 (B, T), by the name of the network's argument; nothing where it tells no texts apart.

    They are read from the ids, so whoever runs a network needs to know of no more than these: 0 up to the first
    separator, 1 behind it.

    Args:
        ids: int64 (B, T).
        config: `millis_second_token_id` in it is the separator.
    """
    separator = getattr(config, SECOND, None)
    if separator is None:
        return {}
    is_separator = (ids == separator).long()
    return {"token_type_ids": (is_separator.cumsum(1) > is_separator).long()}


def layers_of(network: Any) -> Sequence[torch.nn.Module]:
    """List a network's layers, in order."""
    return list(body_of(network).layer)


def body_of(network: Any) -> Any:
    """Give the module whose `layer` lists a network's layers."""
    body = network.base_model
    return body.transformer if network.config.model_type == "distilbert" else body.encoder


def _as_linear(module: torch.nn.Module) -> torch.nn.Linear:
    assert isinstance(module, torch.nn.Linear)
    return module


def _make_linear(weight: torch.Tensor, bias: torch.Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = torch.nn.Parameter(weight.detach().clone())
    linear.bias = torch.nn.Parameter(bias.detach().clone())
    return linear
