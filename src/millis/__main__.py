"""`python -m millis`: the command line."""

from millis.cli import main

main()
