"""What a model is for: text to arrays, arrays to answers, and which score judges them.

Border: knows tokens, labels and offsets; no model library, no HTTP.
"""

from millis.registry import Registry
from millis.tasks.task import Score, Task, Window

tasks = Registry(
    "task",
    {
        "classify": "millis.tasks.classify:ClassifyTask",
        "embedding": "millis.tasks.embedding:EmbeddingTask",
        "ner": "millis.tasks.ner:NerTask",
        "qa": "millis.tasks.qa:QaTask",
        "rerank": "millis.tasks.rerank:RerankTask",
    },
)

__all__ = ["Score", "Task", "Window", "tasks"]
