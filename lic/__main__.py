"""`python -m lic`: the command line without installing."""

from .cli import main

main()
