"""spaCy's default training, with cyopt's optimizer by name."""

import numpy as np
import pytest

pytest.importorskip("spacy")

import spacy
from spacy.cli.init_config import init_config
from spacy.training import Example
from spacy.util import load_model_from_config

import cyopt
from cyopt.integrations import thinc as ours

SENTENCES = [
    ("a good, good day for all", 1.0),
    ("what a bad and sad film", 0.0),
    ("we liked it and would come again", 1.0),
    ("never again will we come here", 0.0),
    ("good food, good people", 1.0),
    ("sad rooms and bad food", 0.0),
]


def train(optimizer_name, component):
    """The losses of some rounds under the default configuration."""
    config = init_config(lang="en", pipeline=[component], optimize="efficiency")
    config["training"]["optimizer"]["@optimizers"] = optimizer_name
    spacy.util.fix_random_seed(0)
    nlp = load_model_from_config(config, auto_fill=True)
    words = {"textcat": lambda score: {"cats": {"good": score, "bad": 1.0 - score}}}
    examples = [
        Example.from_dict(nlp.make_doc(text), words[component](score)) for text, score in SENTENCES
    ]
    nlp.initialize(lambda: examples)
    settings = spacy.schemas.ConfigSchemaTraining
    optimizer = spacy.registry.resolve(nlp.config.interpolate()["training"], schema=settings)[
        "optimizer"
    ]
    losses = []
    for _ in range(10):
        loss = {}
        nlp.update(examples, sgd=optimizer, losses=loss, drop=0.1)
        losses.append(loss[component])
    return losses, optimizer


def test_the_default_training_has_the_same_losses(monkeypatch):
    calls = []
    step = cyopt.adam_
    theirs, _ = train("Adam.v1", "textcat")
    monkeypatch.setattr(cyopt, "adam_", lambda *args, **kw: calls.append(1) or step(*args, **kw))
    mine, optimizer = train("cyopt.Adam.v1", "textcat")
    assert type(optimizer) is ours.Optimizer
    assert len(calls) >= 10
    assert mine[-1] < mine[0]
    assert np.abs(np.subtract(mine, theirs)).max() < 5e-5  # the same to four decimals
