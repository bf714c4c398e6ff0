"""`python -m travelcard`: the command line."""

from travelcard.cli import main

main()
