"""The recipe `digits` of the package, as a script.

    python experiments/digits.py
    python experiments/digits.py sample --labels 7 --num 20 --seed 1 --out sevens
    python experiments/digits.py compare
    python experiments/digits.py evaluate

`jaxdiff run digits` starts the same.
"""

from jaxdiff.cli import main
from jaxdiff.recipes.digits import CONFIG, JUDGE
from jaxdiff.recipes.digits import __doc__ as about

if __name__ == "__main__":
    main(CONFIG, about, judge=JUDGE)
