"""The options that say how labelled files are to be read: the same for every command that reads some.

Border: words for --help; what the values mean, and their check, is data/readers.py's matter.
"""

from typing import Annotated

import typer

Layout = Annotated[str, typer.Option(help="auto, conll or spans.")]
Scheme = Annotated[str, typer.Option(help="auto, iob1, bio, bioes, bilou or bmes.")]
Ends = Annotated[str, typer.Option(help="Span ends: exclusive or inclusive.")]
Overlaps = Annotated[str, typer.Option(help="Overlapping spans: error, or longest to keep the longest.")]
Blanks = Annotated[str, typer.Option(help="Rows with an empty token: error, or skip.")]
