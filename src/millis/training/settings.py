"""What can be chosen about training, and what is chosen for the user, with the reason.

Border: values and the processor's flags; imports no torch.
"""

from dataclasses import dataclass, replace

from millis.cores import cpu_flags
from millis.errors import InvalidValue
from millis.training.methods import METHODS, check_method
from millis.units import check_number

TRACKERS = ("wandb",)
AUTOCASTS = ("auto", "bf16", "off")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How to train; checked when built.

    Args:
        epochs: how many at most.
        patience: stop when the dev score has not risen for so many epochs; None never stops early.
        adapt: what is trained, a name in METHODS; "full" is everything.
        learning_rate: its peak; None chooses it by the method, and by the width of the base.
        batch_size: windows per step, at most.
        batch_tokens: tokens per step, padding counted, at most: the memory bound. A longer window runs alone.
        warmup_share: of all steps, 0 to 1, over which the rate rises; then it falls in a line to zero.
        weight_decay: of weight matrices; biases, norms and embeddings have none.
        max_gradient_norm: gradients are scaled down to this norm.
        seed: of the head, the order and the dropout.
        autocast: "bf16" trains in bfloat16, "off" in float32, "auto" in bfloat16 where the device has it.
        device: "cpu", "cuda", or "auto", which is cuda where torch sees a GPU. Of fine-tuning; the rest of training is
            on the processor.
        balance: each output weighs the same in the loss, however rare it is.
        tracker: "wandb" writes the numbers for Weights & Biases too, beside TensorBoard's files; None does not.
        checkpoint_every_s: pause between checkpoints; longer where writing one takes a twentieth of it.
    Raises:
        InvalidValue: a value outside its range; the message names the range.
    """

    epochs: int = 6
    patience: int | None = 2
    adapt: str = "full"
    learning_rate: float | None = None
    batch_size: int = 32
    batch_tokens: int = 8192
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    seed: int = 7
    autocast: str = "auto"
    device: str = "auto"
    balance: bool = False
    tracker: str | None = None
    checkpoint_every_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "batch_tokens"):
            check_number(name, getattr(self, name), lowest=1, is_whole=True)
        check_method(self.adapt)
        check_number("seed", self.seed, lowest=0, highest=2**63 - 1, is_whole=True)
        if self.patience is not None:
            check_number("patience", self.patience, lowest=1, is_whole=True)
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, lowest=0, is_open=True, highest=1)
        check_number("warmup_share", self.warmup_share, lowest=0, highest=1)
        check_number("weight_decay", self.weight_decay, lowest=0, highest=1)
        check_number("max_gradient_norm", self.max_gradient_norm, lowest=0, is_open=True)
        check_number("checkpoint_every_s", self.checkpoint_every_s, lowest=0)
        if self.tracker is not None and self.tracker not in TRACKERS:
            raise InvalidValue(f"tracker cannot be {self.tracker!r}: choose {', '.join(TRACKERS)}, or leave it out.")
        if self.autocast not in AUTOCASTS:
            raise InvalidValue(f"autocast cannot be {self.autocast!r}: choose one of {', '.join(AUTOCASTS)}.")
        if self.device not in DEVICES:
            raise InvalidValue(f"training cannot be on {self.device!r}: choose one of {', '.join(DEVICES)}.")

    def of_every_weight(self) -> "TrainSettings":
        """Give the same for a training of every weight: a rate that is a method's, or tuned for it, is far too high."""
        return self if self.adapt == "full" else replace(self, adapt="full", learning_rate=None)


def choose_learning_rate(settings: TrainSettings, *, width: int) -> tuple[float, str]:
    """Give the peak learning rate, and why: as set, or by the method; narrower bases bear more."""
    if settings.learning_rate is not None:
        return settings.learning_rate, f"learning rate {settings.learning_rate:g}: as set"
    method = METHODS[settings.adapt]
    if method.learning_rate is not None:
        rate = method.learning_rate
        head = f", {method.head:g} times that for the head" if method.head != 1 else ""
        return rate, f"learning rate {rate:g}: the usual one for {settings.adapt}{head}"
    rate = min(1e-3, 5e-5 * (768 / width) ** 2)
    return rate, f"learning rate {rate:g}: chosen for a base that is {width} wide (5e-5 at 768)"


def choose_precision(settings: TrainSettings, *, gpu_has_bf16: bool | None = None) -> tuple[bool, str]:
    """Say whether to train in bfloat16, and why.

    Args:
        gpu_has_bf16: of the GPU that trains; None where the processor does.
    """
    if settings.autocast == "bf16":
        return True, "bf16: as set"
    if settings.autocast == "off":
        return False, "fp32: as set"
    if gpu_has_bf16 is not None:
        return gpu_has_bf16, "bf16: this GPU has it" if gpu_has_bf16 else "fp32: this GPU has no bf16"
    has = sorted(cpu_flags() & {"avx512_bf16", "amx_bf16"})
    if has:
        return True, f"bf16: this processor has {' and '.join(has)}"
    return False, "fp32: this processor has neither avx512_bf16 nor amx_bf16"
