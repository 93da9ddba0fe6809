"`python -m dream_ood`: the command line, where it is not on the path."
from .cli import main

main()
