"""What adapting leaves in a torch encoder's graph: bottleneck adapters, prefixes or prompts.

    adapter   behind the matrix out of each half of a layer: down to `size`, up again, added to what came
    prefix    `size` keys and values of its own in front of each attention's
    prompt    `size` vectors in front of the text's, before the first layer; their rows are cut off behind the last

The network stays the ordinary transformers one and keeps its names; config.json says what was added under
`millis_graft`, {"kind": ..., "size": ...}, and the weights stand among the others. A prompt stands behind the
embeddings, so the text keeps its positions and its greatest length.
Border: modules and shapes; what trains them is training/adapting.py. Beside encoder.py, and like it imports torch.
Limits: the layers that encoder.py knows, whole: a pruned network is not grafted, nor a grafted one pruned.
Source: Houlsby et al. 2019, arXiv:1902.00751 (adapters in both halves; ReLU as in Pfeiffer et al. 2021,
arXiv:2005.00247, which runtimes fuse). Li & Liang 2021, arXiv:2101.00190, and Liu et al. 2022, arXiv:2110.07602
(prefixes; without the network that Li & Liang make them by). Lester et al. 2021, arXiv:2104.08691 (prompts; theirs
stand before the norm of the embeddings).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForTokenClassification

from millis.backends.encoder import KEY as SHAPE
from millis.backends.encoder import LayerShape, body_of, find_parts, layers_of, shrink, take_head_off

KEY = "millis_graft"


def graft(network: Any, kind: str, *, size: int, ids: torch.Tensor | None = None) -> None:
    """Put one kind of graft on a whole network, in place, and write it into its configuration.

    Args:
        kind: "adapter", "prefix" or "prompt".
        size: the adapters' width, or how many keys or vectors stand in front.
        ids: int64 (1, size), a text whose own keys, values or vectors prefix or prompt begin with; None leaves zeros,
            for weights that are loaded afterwards. Adapters begin as if they were not there.
    """
    {"adapter": _graft_adapters, "prefix": _graft_prefixes, "prompt": _graft_prompt}[kind](network, size, ids)
    setattr(network.config, KEY, {"kind": kind, "size": size})


def read_graft(config: Any) -> str | None:
    """Give the kind of graft that a configuration, or what config.json holds, speaks of."""
    found = config.get(KEY) if isinstance(config, dict) else getattr(config, KEY, None)
    return None if found is None else str(found["kind"])


def is_of_graft(name: str) -> bool:
    """Say whether a weight of a grafted network belongs to the graft."""
    return any(part in ("down", "up", "prefix_keys", "prefix_values", "prompt") for part in name.split("."))


def load_changed(folder: Path) -> Any:
    """Load the network of a folder whose config.json says that it was pruned or grafted; None for an ordinary one.

    Raises:
        Exception: the library's, when config and weights do not belong together.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    added: Any = getattr(config, KEY, None)
    shape = getattr(config, SHAPE, None)
    if added is None and shape is None:
        return None
    network = AutoModelForTokenClassification.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    if shape is not None:
        shrink(network, [LayerShape(*layer) for layer in shape])
    else:
        graft(network, str(added["kind"]), size=int(added["size"]))
    take_head_off(network)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network


class Adapted(torch.nn.Linear):
    """A matrix with a bottleneck adapter behind it.

    Args:
        plain: the matrix, whose weights it takes over.
        size: the bottleneck's width.
    """

    def __init__(self, plain: torch.nn.Linear, *, size: int) -> None:
        super().__init__(plain.in_features, plain.out_features)
        self.weight, self.bias = plain.weight, plain.bias
        self.down = torch.nn.Linear(plain.out_features, size)
        self.up = torch.nn.Linear(size, plain.out_features)
        for zeros in (self.down.bias, self.up.weight, self.up.bias):
            torch.nn.init.zeros_(zeros)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Give (..., D) for (..., n)."""
        hidden = super().forward(hidden)
        return hidden + self.up(torch.relu(self.down(hidden)))


class PrefixedAttention(torch.nn.Module):
    """The library's attention with keys and values of its own in front of the text's.

    Args:
        plain: the attention, whose matrices it takes over under their names.
        keys, values: float32 (P, D).
    """

    def __init__(self, plain: Any, *, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.config = plain.config  # says whether the mask is added or marks places, and may be changed later
        self._names = _attention_names(plain)
        for name in (*self._names, "out_lin"):
            if hasattr(plain, name):
                setattr(self, name, getattr(plain, name))
        self._head_size = int(plain.attention_head_size)
        self.dropout = plain.dropout
        self.prefix_keys = torch.nn.Parameter(keys.clone())
        self.prefix_values = torch.nn.Parameter(values.clone())

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, None]:
        """Give what the library's attention gives, (B, T, D), for states (B, T, D) and a mask (B, 1, 1 or T, T)."""
        query, key, value = (getattr(self, name)(hidden_states) for name in self._names)
        key, value = _put_in_front(self.prefix_keys, key), _put_in_front(self.prefix_values, value)
        query, key, value = (one.unflatten(-1, (-1, self._head_size)).transpose(1, 2) for one in (query, key, value))
        mask = _widen(attention_mask, by=len(self.prefix_keys))
        if self.config._attn_implementation == "eager":
            scores = query @ key.transpose(2, 3) * self._head_size**-0.5
            scores = scores if mask is None else scores + mask
            mixed = self.dropout(scores.softmax(-1)) @ value
        else:
            mixed = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=self.dropout.p if self.training else 0.0
            )
        out = mixed.transpose(1, 2).flatten(2)
        return (self.out_lin(out) if hasattr(self, "out_lin") else out), None


def _graft_adapters(network: Any, size: int, _: torch.Tensor | None) -> None:
    for part in find_parts(network):
        part.replace_out(Adapted(part.out, size=size))


def _graft_prefixes(network: Any, size: int, ids: torch.Tensor | None) -> None:
    path = "attention" if network.config.model_type == "distilbert" else "attention.self"
    layers = layers_of(network)
    plain = [layer.get_submodule(path) for layer in layers]
    matrices = [getattr(one, name) for one in plain for name in _attention_names(one)[1:]]
    seen = [torch.zeros(size, matrix.out_features) for matrix in matrices]
    if ids is not None:
        with _outputs_of(matrices) as outputs:
            _run(network, ids)
        seen = [output[0] for output in outputs]
    for layer, one, keys, values in zip(layers, plain, seen[::2], seen[1::2], strict=True):
        layer.set_submodule(path, PrefixedAttention(one, keys=keys, values=values))


def _graft_prompt(network: Any, size: int, ids: torch.Tensor | None) -> None:
    encoder = body_of(network)
    prompt = torch.zeros(size, int(network.config.hidden_size))
    if ids is not None:
        with _inputs_of(encoder) as inputs:
            _run(network, ids)
        prompt = inputs[0][0].clone()
    encoder.register_parameter("prompt", torch.nn.Parameter(prompt))
    encoder.register_forward_pre_hook(_insert_prompt, with_kwargs=True)
    encoder.register_forward_hook(_cut_prompt)


def _insert_prompt(
    encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    hidden, rest = _take_hidden(args, kwargs)
    hidden = _put_in_front(encoder.prompt, hidden)
    mask = kwargs["attention_mask"]
    if mask is not None:  # every place sees the same ones, the prompt's too; a row for each, since OpenVINO's
        # attention in eight bits at a static length reads one row for all wrongly (2026.4)
        mask = _widen(mask[:, :, :1].expand(-1, -1, hidden.shape[1], -1), by=len(encoder.prompt))
    return (hidden, *args[1:]), {**rest, "attention_mask": mask}


def _cut_prompt(encoder: Any, _: tuple[Any, ...], output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state[:, len(encoder.prompt) :]
    return output


def _take_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Give the encoder's hidden states, which some types pass by name, and the other named arguments."""
    rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
    return (args[0] if args else kwargs["hidden_states"]), rest


def _put_in_front(added: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Put vectors (P, D) in front of every row of (B, T, D)."""
    return torch.cat([added.to(hidden.dtype).expand(hidden.shape[0], -1, -1), hidden], dim=1)


def _widen(mask: torch.Tensor | None, *, by: int) -> torch.Tensor | None:
    """Let every place of a mask (B, 1, any, T) see so many more in front."""
    if mask is None:
        return None
    return torch.nn.functional.pad(mask, (by, 0), value=mask.dtype == torch.bool)


def _attention_names(attention: Any) -> tuple[str, str, str]:
    """Name an attention's matrices for queries, keys and values."""
    return ("q_lin", "k_lin", "v_lin") if hasattr(attention, "q_lin") else ("query", "key", "value")


def _run(network: Any, ids: torch.Tensor) -> None:
    was_training = network.training
    network.eval()
    with torch.no_grad():
        network(input_ids=ids, attention_mask=torch.ones_like(ids))
    network.train(was_training)


@contextmanager
def _outputs_of(modules: list[Any]) -> Iterator[list[torch.Tensor]]:
    """Collect what modules give while the block runs, in their order."""
    outputs: list[torch.Tensor] = []
    handles = [module.register_forward_hook(lambda _m, _a, output: outputs.append(output)) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _inputs_of(encoder: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the hidden states that go into an encoder while the block runs."""
    inputs: list[torch.Tensor] = []
    handle = encoder.register_forward_pre_hook(
        lambda _m, args, kwargs: inputs.append(_take_hidden(args, kwargs)[0]), with_kwargs=True
    )
    try:
        yield inputs
    finally:
        handle.remove()
