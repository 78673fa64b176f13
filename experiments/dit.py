"""The recipe `dit` of the package, as a script.

    python experiments/dit.py train --data.path latents
    python experiments/dit.py sample --labels 207 --num 8

`jaxdiff train dit` starts the same.
"""

from jaxdiff.cli import main
from jaxdiff.recipes.dit import CONFIG
from jaxdiff.recipes.dit import __doc__ as about

if __name__ == "__main__":
    main(CONFIG, about)
