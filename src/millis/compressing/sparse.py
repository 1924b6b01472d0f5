"""Zeros in the place of each matrix's smallest weights, by NNCF: whether they save anything is the runtime's affair.

Border: a tagger in, a copy of the same shape out, untrained; times are measured by who asks.
Limits: matrices inside layers only; NNCF's own `strip` wants torchao, so its masks are read and multiplied in here.
"""

import copy
import logging

import torch

from millis.models.taggers import Tagger

_MASK, _PLACE = ".binary_mask", "post_hooks."


def zero_weights(tagger: Tagger, *, share: float) -> Tagger:
    """Give a copy of a tagger with this share, 0 to 1, of each layer matrix's weights set to zero, the smallest first.

    Source: Han et al. 2015, arXiv:1506.02626, without their training afterwards.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    made: Tagger = copy.deepcopy(tagger).eval()
    ids = torch.ones(1, 4, dtype=torch.long)
    outside = nncf.IgnoredScope(patterns=[".*embeddings.*", ".*classifier.*"], validate=False)
    masked = nncf.prune(
        copy.deepcopy(made), nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, ratio=share, ignored_scope=outside,
        examples_inputs=(ids, torch.ones_like(ids)),
    )  # fmt: skip
    weights = dict(made.named_parameters())
    with torch.no_grad():
        for key, mask in masked.state_dict().items():
            if key.endswith(_MASK):  # ...post_hooks.network:bert:...:weight__0.0.binary_mask
                name = key.partition(_PLACE)[2].partition("__")[0].replace(":", ".")
                weights[name].mul_(mask)
    return made
