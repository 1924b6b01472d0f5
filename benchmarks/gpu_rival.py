"""The rival of benchmarks/gpu.py: a fine-tuned tagger on a GPU as a good engineer would serve it in an afternoon.

    MODEL=FOLDER DEVICE=cuda WAY=alone uvicorn gpu_rival:app       each request is run by a thread, as it comes
    MODEL=FOLDER DEVICE=cuda WAY=together uvicorn gpu_rival:app    what has come while the GPU was busy runs together

Answers POST /v1/ner {"input": TEXT} with {"entities": [{"label", "start", "end"}]}. The weights are in the precision
that the folder has. Kernels are launched one by one; texts are padded to the longest of their batch.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tokenizers import Tokenizer
from transformers import AutoModelForTokenClassification

MODEL, DEVICE, MOST = Path(os.environ["MODEL"]), os.environ["DEVICE"], 64

tokenizer = Tokenizer.from_file(os.environ["TOKENIZER"])
tokenizer.enable_padding()
tokenizer.enable_truncation(256)
model = AutoModelForTokenClassification.from_pretrained(MODEL, local_files_only=True).eval().to(DEVICE)
labels = model.config.id2label
device_thread = ThreadPoolExecutor(1)
waiting: list[tuple[str, "asyncio.Future[Any]"]] = []


def run(texts: list[str]) -> list[list[dict[str, Any]]]:
    """Answer texts in one batch."""
    rows = tokenizer.encode_batch(texts)
    with torch.inference_mode():
        ids = torch.tensor([row.ids for row in rows]).to(DEVICE)
        mask = torch.tensor([row.attention_mask for row in rows]).to(DEVICE)
        found = model(input_ids=ids, attention_mask=mask).logits.argmax(-1).cpu().tolist()
    return [read(of_row, row.offsets) for of_row, row in zip(found, rows, strict=True)]


def read(tags: list[int], offsets: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Join pieces of a label."""
    entities: list[dict[str, Any]] = []
    for tag, (start, end) in zip(tags, offsets, strict=True):
        prefix, _, label = labels[tag].partition("-")
        if prefix == "I" and entities and entities[-1]["label"] == label:
            entities[-1]["end"] = end
        elif label and end > start:
            entities.append({"label": label, "start": start, "end": end})
    return entities


async def empty_the_queue() -> None:
    """Run what waits, as long as something does."""
    while waiting:
        batch = waiting[:MOST]
        del waiting[:MOST]
        answers = await asyncio.get_running_loop().run_in_executor(device_thread, run, [text for text, _ in batch])
        for (_, told), answer in zip(batch, answers, strict=True):
            told.set_result(answer)


async def answer_alone(text: str) -> Any:
    """Run one text on the device's thread."""
    return (await asyncio.get_running_loop().run_in_executor(device_thread, run, [text]))[0]


running: "asyncio.Task[None] | None" = None


async def answer_together(text: str) -> Any:
    """Wait for the batch that this text is in."""
    global running
    told = asyncio.get_running_loop().create_future()
    waiting.append((text, told))
    if running is None or running.done():
        running = asyncio.create_task(empty_the_queue())
    return await told


answer = {"alone": answer_alone, "together": answer_together}[os.environ["WAY"]]


async def ner(request: Request) -> JSONResponse:
    """Answer one text."""
    return JSONResponse({"entities": await answer((await request.json())["input"])})


for n_rows in (1, MOST):  # the first calls choose kernels and take memory
    run(["warm"] * n_rows)
app = Starlette(routes=[Route("/v1/ner", ner, methods=["POST"])])
