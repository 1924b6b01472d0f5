"""A bundle's answers to labelled text, scored in this process.

Border: reads a file as the bundle's fit did; what the score is, is the task's. Models that speak: hearing.py.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from millis.bundles import Bundle, load, open_bundle
from millis.data.examples import Example
from millis.data.readers import ReadSettings, read_labelled
from millis.data.rows import Reading
from millis.errors import InvalidValue
from millis.measuring.quality import measure_quality
from millis.searching.settings import check_names
from millis.tasks import Score, tasks


def read_test(bundle: Bundle, file: str | Path, *, settings: ReadSettings) -> Reading:
    """Read labelled text as the fit of a bundle does.

    Raises:
        InvalidData: as `read_labelled`.
    """
    if bundle.manifest.task_settings.get("is_multi") and settings.separator is None:
        settings = replace(settings, separator=",")
    return read_labelled(file, settings=settings, of=tasks[bundle.manifest.task].data)


def evaluate(
    path: str | Path | Bundle, examples: str | Path | Sequence[Example], *, rung: str | None = None, **reading: Any
) -> Score:
    """Score a bundle's rung on labelled examples.

    Args:
        examples: a file of them, as for fit, or what was read.
        rung: its name; the serving one when missing.
        reading: fields of ReadSettings (separator, layout, ...): how the file is to be read.
    Raises:
        InvalidBundle, InvalidData: they cannot be read.
        InvalidValue: reading names what ReadSettings does not have, or examples are none.
    """
    check_names("evaluate", reading, known=[one.name for one in fields(ReadSettings)])
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    if isinstance(examples, str | Path):
        examples = read_test(bundle, examples, settings=ReadSettings(**reading)).examples
    if not examples:
        raise InvalidValue("there are no examples to score: give a file of labelled text, or what was read of one.")
    model = load(bundle, rung=rung)
    try:
        return measure_quality(model, examples, name="evaluate")
    finally:
        model.close()
