"""Fits with a method from outside the package. Install it first: pip install ./examples/toy_plugin"""

import sys

from handful import FewShotClassifier

TEXTS = ["refund my card", "I was charged twice", "the invoice is wrong", "my payment failed"]
TEXTS += ["the app crashes", "a blank page after login", "the button does nothing", "it freezes at start"]
LABELS = ["billing"] * 4 + ["bug"] * 4

if __name__ == "__main__":
    backbone = sys.argv[1] if len(sys.argv) > 1 else "minilm"
    classifier = FewShotClassifier(backbone, recipe="toy", seed=0).fit(TEXTS, LABELS)
    print(*classifier.predict(["I want my money back", "nothing happens when I click"]))
    print(f"{classifier.artifact_.cost['method_parameters']} parameters of {classifier.artifact_.method['name']!r}")
    classifier.save("toy_task")
