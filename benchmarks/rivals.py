"""The other ways to serve the same fine-tuned model, as their users would write them.

    RIVAL=pipeline-padded MODEL=FOLDER uvicorn rivals:app ...   the article's way: pipeline, fp32, padded to 128, FastAPI
    RIVAL=pipeline MODEL=FOLDER uvicorn rivals:app ...          the same, unpadded
    RIVAL=onnxruntime MODEL=FOLDER uvicorn rivals:app ...       int8 dynamic, one thread, FastAPI; run it with 2 workers

Each answers POST /ner {"input": TEXT} with {"entities": [{"label", "start", "end", "score"}]}.
Known limits: the ONNX Runtime rival decodes with our own task, which is faster than the pipeline's; that favours it.
"""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

MODEL = Path(os.environ["MODEL"])


class Ask(BaseModel):
    """A request."""

    input: str


def make_pipeline(*, is_padded: bool) -> Any:
    """Load the pipeline that transformers offers for this task."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    model = AutoModelForTokenClassification.from_pretrained(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(MODEL, model_max_length=128)
    found = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")
    if is_padded:
        plain = found.tokenizer

        class Padded(type(plain)):  # type: ignore[misc]
            """Pads every text to 128, as the article's code does."""

            def __call__(self, *texts: Any, **options: Any) -> Any:
                return super().__call__(*texts, **(options | {"padding": "max_length", "max_length": 128, "truncation": True}))

        plain.__class__ = Padded

    def answer(text: str) -> list[dict[str, Any]]:
        return [
            {"label": one["entity_group"], "start": one["start"], "end": one["end"], "score": float(one["score"])}
            for one in found(text)
        ]

    return answer


def make_onnxruntime() -> Any:
    """Load int8 weights made by quantize_dynamic, one thread, no padding."""
    import json

    from millis.backends import BackendSettings, backends
    from millis.bundles import Model, Rung
    from millis.tasks.ner import NerTask
    from millis.tasks.tokenization import Tokenizer

    labels = json.loads((MODEL / "labels.json").read_text())
    backend = backends["onnxruntime"]()
    backend.load(MODEL, settings=BackendSettings(threads=1))
    task = NerTask(Tokenizer(MODEL / "tokenizer.json"), labels=labels, max_tokens=128)
    rung = Rung(name="rival", backend="onnxruntime", precision="int8", folder=".")
    model = Model(task, backend, rung=rung, name="rival")
    model.warm()
    return lambda text: model(text)["entities"]


answer = make_onnxruntime() if os.environ["RIVAL"] == "onnxruntime" else make_pipeline(
    is_padded=os.environ["RIVAL"] == "pipeline-padded"
)  # fmt: skip
app = FastAPI()


@app.post("/ner")
async def ner(ask: Ask) -> dict[str, Any]:
    """Answer one text."""
    return {"entities": answer(ask.input)}
