"""The recipe `cifar10` of the package, as a script.

    python experiments/cifar10.py train
    python experiments/cifar10.py sample

`jaxdiff train cifar10` starts the same.
"""

from jaxdiff.cli import main
from jaxdiff.recipes.cifar10 import CONFIG
from jaxdiff.recipes.cifar10 import __doc__ as about

if __name__ == "__main__":
    main(CONFIG, about)
