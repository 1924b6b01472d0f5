"""Rungs that hold a model's files as they came, for engines that read them so: a GGUF file, or a folder's weights.

Border: nothing is converted, rounded or trained. What speaks with the model is ours all the same: where the engine has
a tokenizer of its own, both cut the same texts into the same ids, or the file is refused.
Limits: vllm is untested, see backends/vllm.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, normalizers, processors

from millis.backends import generators
from millis.bundles import Rung
from millis.bundles.manifest import Choice, Step
from millis.errors import InvalidBase, InvalidBundle, InvalidValue
from millis.models.speech import read_fields, read_precision

CARRIED = {"llamacpp": "cpu", "vllm": "cuda"}
"""Engines that read files as they came, and where they run."""

PROBES = (
    "The tide comes in twice a day, doesn't it? They'LL see.",
    "潮水每天来两次。孩子们数着台阶！",
    "In 2024 it cost 12345.67 €",
    "def steps(height):\n\treturn int(height / 0.25) + 1  # once\n\n\n  y",
    "  two spaces ",
    "x =  12\n    7\t\t3  ½",
    "a_b::c->d == !x;\r\n",
    " \n\n ",
    "Привет مرحبا 안녕 é e\u0301 🙂👩\u200d👧",
)
"""Texts that tokenizers cut in different ways if they can."""

_CONFIG = ("config.json", "generation_config.json")


def check_carried(base: object, rung: str) -> None:
    """Refuse a base that an engine cannot read as it came.

    Raises:
        InvalidValue: it is not the kind of file that this rung holds.
        MissingExtra: llama.cpp is not installed, by which a GGUF file is checked.
    """
    place = Path(base).expanduser() if isinstance(base, str) else None
    is_gguf = place is not None and place.suffix == ".gguf" and place.is_file()
    if rung == "llamacpp" and not is_gguf:
        raise InvalidValue("rung llamacpp holds a GGUF file as it came: give a .gguf file, or leave the rung out.")
    if rung == "llamacpp" and place is not None:
        generators[rung]  # or it says what to install
        n_parts = int(read_fields(place, "split.count").get("split.count", 1))
        if n_parts > 1:
            raise InvalidValue(
                f"{place.name} is one of {n_parts} parts: join them with `llama-gguf-split --merge`, give the whole."
            )
    if rung == "vllm" and (place is None or not (place.is_dir() and list(place.glob("*.safetensors")))):
        raise InvalidValue(
            "rung vllm holds a folder's weights as they came: give a folder in Hugging Face layout with"
            " .safetensors files, or leave the rung out."
        )


def carry(base: str, rung: str, *, scratch: Path, threads: int) -> Rung:
    """Lay a base's files out for an engine, in a folder of the rung's name."""
    place, folder = Path(base).expanduser().resolve(), scratch / rung
    folder.mkdir()
    if rung == "llamacpp":
        from millis.backends.llamacpp import FILE

        (folder / FILE).symlink_to(place)
    for file in _list_weights(place) if rung == "vllm" else ():
        (folder / file.name).symlink_to(file)
    n_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return Rung(
        name=rung, backend=rung, precision=read_precision(base), folder=f"rungs/{rung}", device=CARRIED[rung],
        threads=threads, steps=(Step(step="taken as it came", seconds=0.0, n_bytes=n_bytes),),
    )  # fmt: skip


def agree_with_llamacpp(tokenizer: str, base: str) -> tuple[str, tuple[int, ...], Choice]:
    """Give a tokenizer of a GGUF file that cuts texts as llama.cpp does, and the pieces that end an answer there.

    Args:
        tokenizer: content of tokenizer.json, as it could be built from the file.
    Raises:
        InvalidBase: it cuts texts in another way than llama.cpp, or llama.cpp cannot load the file.
    """
    from millis.backends.llamacpp import Vocabulary, try_model

    file = Path(base).expanduser()
    try:
        try_model(file)
        vocabulary = Vocabulary(file)
    except InvalidBundle as error:
        raise InvalidBase(f"base {base!r} cannot be used: {error}") from error
    try:
        want = [vocabulary.encode(one, has_frame=False) for one in PROBES]
        front, framed = (vocabulary.encode(one, has_frame=True) for one in ("", PROBES[0]))
        ends = vocabulary.list_ends()
    finally:
        vocabulary.close()
    for candidate in _spell_out(Tokenizer.from_str(tokenizer), front):
        got = [candidate.encode(one, add_special_tokens=False).ids for one in PROBES]
        if got == want and candidate.encode(PROBES[0]).ids == framed:
            reason = f"it cuts {len(PROBES)} texts of prose, Chinese, code and signs into the ids that llama.cpp does"
            told = Choice(what="tokenizer", choice="built from the GGUF file", reason=reason)
            return candidate.to_str(), ends, told
    raise InvalidBase(
        f"{file.name}: the tokenizer that can be built from it cuts texts in another way than llama.cpp: give"
        " another file of this model, or its folder in Hugging Face layout."
    )


def _spell_out(tokenizer: Tokenizer, front: list[int]) -> Iterator[Tokenizer]:
    """Give what may be meant by a tokenizer: with what stands before every text, and spaces in the older way."""
    if front:
        names = [tokenizer.id_to_token(i) for i in front]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*names, "$A"], special_tokens=list(zip(names, front, strict=True))
        )
    yield tokenizer
    if (json.loads(tokenizer.to_str())["pre_tokenizer"] or {}).get("type") == "Metaspace":
        marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Sequence(marks), None
        yield tokenizer


def _list_weights(folder: Path) -> list[Path]:
    named = (folder / one for one in _CONFIG)
    wanted = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json"), *named]
    return sorted(file for file in wanted if file.is_file())
