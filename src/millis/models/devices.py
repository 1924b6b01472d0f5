"""Where a torch model is trained and scored: a GPU where there is one, unless somebody says otherwise.

Border: asks torch what is there; where a bundle serves is its contract's to say.
Limits: one GPU, of NVIDIA's (or AMD's, whose torch calls itself cuda too; nobody tried).
"""

import torch

from millis.errors import InvalidValue


def choose_device(asked: str) -> tuple[torch.device, str]:
    """Give the device to train on, and why.

    Args:
        asked: "auto", "cpu" or "cuda".
    Raises:
        InvalidValue: cuda, where torch sees none.
    """
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise InvalidValue(
            f"training cannot be on cuda: this torch ({torch.__version__}) sees no GPU. Leave it to auto, or install a"
            " torch that is built for the GPU's driver."
        )
    if asked == "cpu" or not has_gpu:
        return torch.device("cpu"), f"on the processor: {'as set' if asked == 'cpu' else 'torch sees no GPU'}"
    why = "as set" if asked == "cuda" else "torch sees it"
    return torch.device("cuda"), f"on {torch.cuda.get_device_name()}: {why}"
