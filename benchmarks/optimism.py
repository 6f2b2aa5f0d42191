"""Does choosing flatter the reported accuracy? Reported against measured, on a set near chance, where it shows most.

    python benchmarks/optimism.py [SET] [--shots 8] [--draws 16]

The test rows are of the training file, as many of each class, so that nothing but the estimate can differ.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

from fewshot_sets import SETS, draw, rows
from handful.backbone import load
from handful.predictor import Predictor
from handful.recipes import recipe

TEST_ROWS = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", nargs="?", default="query_wellformedness")
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--draws", type=int, default=16)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    backbone = load("minilm")
    tasks = [draw(arguments.set, arguments.shots, 100 + i)[0] for i in range(arguments.draws)]
    used = {example.text for task in tasks for example in task.examples}
    free = [example for example in rows(SETS[arguments.set][0]) if example.text not in used]
    rng = np.random.default_rng(1)
    test = []
    for label in tasks[0].labels:
        own = [example for example in free if example.label == label]
        test += [own[i] for i in rng.permutation(len(own))[:TEST_ROWS]]
    for name in ("default", "probe", "prototypes"):
        reported, measured = [], []
        for fitted in recipe(name)(tasks, backbone, seed=0):
            assert fitted.estimate is not None
            found = Predictor(fitted, backbone).scores(test).logits.argmax(-1).tolist()
            measured.append(np.mean([fitted.labels[i] == e.label for i, e in zip(found, test, strict=True)]))
            reported.append(fitted.estimate["accuracy"]["value"])
        error = np.std(np.subtract(reported, measured), ddof=1) / len(tasks) ** 0.5
        print(f"{name}: reported {np.mean(reported):.3f}, measured {np.mean(measured):.3f}, standard error {error:.3f}")


if __name__ == "__main__":
    main()
