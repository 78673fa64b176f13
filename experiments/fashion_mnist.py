"""The recipe `fashion` of the package, as a script.

    python experiments/fashion_mnist.py train
    python experiments/fashion_mnist.py sample --labels 9 5 --num 20

`jaxdiff train fashion` starts the same.
"""

from jaxdiff.cli import main
from jaxdiff.recipes.fashion_mnist import CONFIG
from jaxdiff.recipes.fashion_mnist import __doc__ as about

if __name__ == "__main__":
    main(CONFIG, about)
