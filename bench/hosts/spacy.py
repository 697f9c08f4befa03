"""spaCy's bag-of-words text classifier, by the optimizer of its default configuration."""

from __future__ import annotations

from typing import Any

import spacy
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch
from thinc import api

from cyopt.integrations import thinc as ours

from .data import reviews
from .rows import Row, Side
from .thinc import TOLERANCE, steps_of

LENGTH = 262_144  # of the table of each class, spaCy's default
SHAPES = [(2 * LENGTH,), (2,)]
ARCHITECTURE = {
    "@architectures": "spacy.TextCatBOW.v3",
    "exclusive_classes": True,
    "length": LENGTH,
    "ngram_size": 1,
    "no_output_layer": False,
}
STEPS = 5


def side(adam: Any) -> Side:
    """Training and steps by one of the two classes."""
    vocab = spacy.blank("zh").vocab
    examples = list(annotated(vocab))

    def optimizer() -> Any:
        return adam(0.001, L2=0.01, use_averages=False)

    def train() -> float:
        fix_random_seed(0)
        nlp = spacy.blank("zh", vocab=vocab)
        nlp.add_pipe("textcat", config={"model": ARCHITECTURE})
        nlp.initialize(lambda: examples[:10])
        sgd = optimizer()
        losses: dict[str, float] = {}
        for batch in minibatch(examples, 50):
            nlp.update(batch, sgd=sgd, losses=losses)
        return float(losses["textcat"])

    return Side(train, steps_of(optimizer(), SHAPES, STEPS))


def annotated(vocab: Any) -> Any:
    """The reviews as spaCy's examples, a token for each character."""
    nlp = spacy.blank("zh", vocab=vocab)
    for text, positive in zip(*reviews(), strict=True):
        cats = {"positive": float(positive), "negative": float(not positive)}
        yield Example.from_dict(nlp.make_doc(text), {"cats": cats})


ROWS = [
    Row("spaCy", "reviews, TextCatBOW, Adam float32", SHAPES, TOLERANCE,
        lambda: (side(api.Adam), side(ours.Adam)), STEPS)
]  # fmt: skip
