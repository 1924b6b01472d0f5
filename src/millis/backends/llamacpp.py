"""llama.cpp: a GGUF file as it came, several answers in one batch, the prefixes of prompts kept.

Each answer has a sequence of the engine's memory. A sequence keeps what was read when its answer has ended, and a
prompt begins where the sequence that began most like it does, open ones too: the cells are shared, nothing is copied.
A step reads one piece of every answer that is under way; prompts share what is left of STEP_TOKENS.
Border: the one file that imports llama_cpp; sequences.py decides where a prompt begins and what a step reads. Reads
model.gguf. Ids in and out: its tokenizer is not used to answer.
Limits: CPU. No grammars, no lookup. Models that keep a state in place of keys (Mamba and its like) read every prompt
from its beginning. On processors with AMX weights are not repacked: 0.3.36 dies of it (docs/log.md).
"""

import ctypes
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millis.backends.generator import BLOCK_TOKENS, STEP_TOKENS, GeneratorSettings, Step, no_grammars
from millis.backends.sequences import Held, Turn, choose_sequence, share_out
from millis.backends.stepping import OpenAnswer, Stepping
from millis.cores import cpu_flags
from millis.errors import InvalidBundle, InvalidValue, RunFailed

import llama_cpp as library  # isort: skip

_log = logging.getLogger("millis")

FILE = "model.gguf"
_MOST_COMPLAINTS = 16


class LlamaCppGenerator(Stepping):
    """See Generator."""

    name = "llamacpp"

    def __init__(self) -> None:
        super().__init__()
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        self._waiting: list[OpenAnswer] = []
        self._turns: dict[OpenAnswer, Turn] = {}
        self._n_given = 0

    def load(self, folder: Path, *, settings: GeneratorSettings) -> None:
        """Read the model, take the memory for keys and values, and read the prefix."""
        if settings.device != "cpu":
            raise InvalidValue(f"llamacpp has no device {settings.device!r} here: it runs on cpu.")
        if settings.lookup is not None:
            raise InvalidValue("llamacpp has no lookup: leave it out, or serve the rung on genai.")
        if settings.keeps_float32:
            raise InvalidValue("llamacpp chooses its arithmetic itself: leave keeps_float32 out, or serve on genai.")
        self._settings = settings
        if not _repacks():
            _log.warning("llama.cpp leaves weights as they are packed: 0.3.36 dies of AMX, which this processor has")
        self._model = open_model(folder / FILE)
        self._is_rewindable = not (
            library.llama_model_is_recurrent(self._model) or library.llama_model_is_hybrid(self._model)
        )
        keeps = settings.keeps_prefixes and self._is_rewindable
        n_kept = len(settings.prefix) // BLOCK_TOKENS * BLOCK_TOKENS if keeps else 0
        self._prefix = settings.prefix[:n_kept]
        self._step_tokens = max(STEP_TOKENS, settings.streams)
        self._sequences = [Held(i) for i in range(settings.streams)]
        self._fixed = Held(settings.streams) if self._prefix else None
        self._make_context()
        self._n_pieces = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))
        self._read_prefix()
        self._thread.start()

    def accept(self, grammar: str) -> None:
        """See Generator."""
        raise no_grammars()

    def close(self) -> None:
        """See Generator."""
        super().close()
        if self._context is not None:
            library.llama_batch_free(self._batch)
            library.llama_free(self._context)
        if self._model is not None:
            library.llama_model_free(self._model)
        self._context = self._model = None

    def _make_context(self) -> None:
        settings = self._settings
        asked = library.llama_context_default_params()
        asked.n_ctx = settings.streams * settings.context + len(self._prefix)
        asked.n_seq_max = settings.streams + bool(self._prefix)
        asked.n_batch = asked.n_ubatch = self._step_tokens
        asked.n_threads = asked.n_threads_batch = settings.threads
        asked.kv_unified = asked.swa_full = True  # cells are shared, and none is dropped that a prompt may begin with
        self._context = library.llama_init_from_model(self._model, asked)
        if not self._context:
            raise InvalidBundle(
                f"llama.cpp cannot make room for {settings.streams} answers of {settings.context:,} tokens"
                f" ({_first_said()}): pack with a smaller --context."
            )
        self._memory = library.llama_get_memory(self._context)
        self._batch = library.llama_batch_init(self._step_tokens, 0, 1)

    def _read_prefix(self) -> None:
        """Read what is left of the prefix: all of it at first, and again after a step that raised."""
        while self._fixed is not None and len(self._fixed.read) < len(self._prefix):
            low = len(self._fixed.read)
            self._decode([(self._fixed, self._prefix[low : low + self._step_tokens])])

    def _begin(self, answer: OpenAnswer) -> None:
        if not 0 < len(answer.ids) < self._settings.context:
            answer.tell(Step(id=None, ending="failed"))
            return
        self._waiting.append(answer)

    def _step(self, answers: Sequence[OpenAnswer]) -> None:
        self._read_prefix()
        while self._waiting and any(one.turn is None for one in self._sequences):
            self._give_sequence(self._waiting.pop(0))
        parts = share_out(self._turns.values(), n_tokens=self._step_tokens)
        ends = self._decode([(turn.sequence, ids) for turn, ids in parts]) if parts else []
        for (turn, _), end in zip(parts, ends, strict=True):
            if turn.n_unread == 0:
                self._say(turn, self._logits(end))

    def _say(self, turn: Turn, logits: NDArray[np.float32]) -> None:
        sampling, answer = turn.answer.sampling, turn.answer
        piece, logprob = turn.chooser.choose(logits)
        turn.ids.append(piece)
        n_said = len(turn.ids) - len(answer.ids)
        is_last = n_said >= sampling.max_tokens or len(turn.ids) >= self._settings.context
        ending: Any = "stop" if piece in sampling.stop_ids else "length" if is_last else None
        answer.tell(Step(id=piece, logprob=logprob, ending=ending))
        if ending is not None:
            self._release(answer)

    def _drop(self, answer: OpenAnswer) -> None:
        if answer in self._waiting:
            self._waiting.remove(answer)
        self._release(answer)

    def _release(self, answer: OpenAnswer) -> None:
        turn = self._turns.pop(answer, None)
        if turn is not None:
            turn.sequence.turn = None

    def _renew(self) -> None:
        self._waiting.clear()
        library.llama_memory_clear(self._memory, False)
        for sequence in self._sequences:
            sequence.read, sequence.turn = [], None
        if self._fixed is not None:
            self._fixed.read = []

    def _give_sequence(self, answer: OpenAnswer) -> None:
        free = [one for one in self._sequences if one.turn is None]
        shared = self._list_read() if self._settings.keeps_prefixes and self._is_rewindable else []
        chosen, source, n_known = choose_sequence(answer.ids, free=free, read=shared)
        if source is chosen and library.llama_memory_seq_rm(self._memory, chosen.number, n_known, -1):
            chosen.read = chosen.read[:n_known]
        else:
            library.llama_memory_seq_rm(self._memory, chosen.number, -1, -1)
            chosen.read = []
            if source is not chosen and n_known:
                library.llama_memory_seq_cp(self._memory, source.number, chosen.number, 0, n_known)
                chosen.read = list(answer.ids[:n_known])
        self._n_given += 1
        chosen.used_at = self._n_given
        chosen.turn = self._turns[answer] = Turn(answer, chosen)

    def _list_read(self) -> list[Held]:
        return [one for one in [*self._sequences, self._fixed] if one is not None and one.read]

    def _decode(self, parts: Sequence[tuple[Held, Sequence[int]]]) -> list[int]:
        """Read ids behind what sequences hold; give the places in the batch where each part ends, with its logits."""
        batch, n = self._batch, 0
        ends = []
        for sequence, ids in parts:
            for place, piece in enumerate(ids, start=len(sequence.read)):
                batch.token[n], batch.pos[n], batch.n_seq_id[n], batch.logits[n] = piece, place, 1, 0
                batch.seq_id[n][0] = sequence.number
                n += 1
            batch.logits[n - 1] = 1
            ends.append(n - 1)
        batch.n_tokens = n
        status = library.llama_decode(self._context, batch)
        if status != 0:
            raise RunFailed(f"llama.cpp failed with status {status} ({_first_said()}): ask again.")
        for sequence, ids in parts:
            sequence.read.extend(ids)
        return ends

    def _logits(self, place: int) -> NDArray[np.float32]:
        """Give the logits (V,) of a place in the batch; valid until the next step."""
        row = library.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(row, (self._n_pieces,))


def open_model(file: Path, *, is_vocabulary: bool = False) -> Any:
    """Give the library's model of a GGUF file, which has to be freed with llama_model_free.

    Args:
        is_vocabulary: read no weights.
    Raises:
        InvalidBundle: the file is missing, truncated, or of an architecture that this llama.cpp does not know.
    """
    if not file.is_file():
        raise InvalidBundle(f"{file.name} is missing from {file.parent.name}: make the bundle anew.")
    asked = library.llama_model_default_params()
    asked.n_gpu_layers, asked.vocab_only = 0, is_vocabulary
    asked.use_extra_bufts = _repacks()
    model = library.llama_model_load_from_file(str(file).encode(), asked)
    if not model:
        raise InvalidBundle(f"{file.name} cannot be loaded by llama.cpp ({_first_said()}): copy it again.")
    if not is_vocabulary and library.llama_model_has_encoder(model):
        library.llama_model_free(model)
        raise InvalidBundle(f"{file.name} has an encoder, which is not supported: give a model of a decoder alone.")
    return model


def _repacks() -> bool:
    return not {"amx_int8", "amx_tile"} & cpu_flags()


def try_model(file: Path) -> None:
    """Load a GGUF file and let it go.

    Raises:
        InvalidBundle: see open_model.
    """
    library.llama_model_free(open_model(file))


class Vocabulary:
    """How llama.cpp reads texts with a GGUF file, by which another tokenizer of it is judged."""

    def __init__(self, file: Path) -> None:
        self._model = open_model(file, is_vocabulary=True)
        self._vocabulary = library.llama_model_get_vocab(self._model)

    def encode(self, text: str, *, has_frame: bool) -> list[int]:
        """Cut a text into ids, special pieces where it spells some; see SpeakingTokenizer.encode."""
        content = text.encode()
        ids = (library.llama_token * (len(content) + 8))()
        n = library.llama_tokenize(self._vocabulary, content, len(content), ids, len(ids), has_frame, True)
        return list(ids[:n])

    def list_ends(self) -> tuple[int, ...]:
        """List the pieces that end an answer."""
        n = library.llama_vocab_n_tokens(self._vocabulary)
        return tuple(i for i in range(n) if library.llama_vocab_is_eog(self._vocabulary, i))

    def close(self) -> None:
        """Free it."""
        library.llama_model_free(self._model)


_ERROR = 4  # of ggml_log_level
_complaints: list[str] = []


def _listen(level: int, text: bytes, _: Any) -> None:
    """Keep complaints, and print nothing."""
    if level == _ERROR and len(_complaints) < _MOST_COMPLAINTS:
        _complaints.append(text.decode("utf-8", "replace").strip()[:200])


_LISTENER = library.llama_log_callback(_listen)  # kept: the library calls it for ever
library.llama_log_set(_LISTENER, ctypes.c_void_p(0))
library.llama_backend_init()


def _first_said() -> str:
    """Give the first complaint since the last time: later ones only say that something failed."""
    said = _complaints[0] if _complaints else "no reason given"
    _complaints.clear()
    return said
