"""`python bench --hosts`: training with each host's own optimizer, and with cyopt's."""

# Module in this folder -> the package that it needs.
HOSTS = {
    "sklearn": "scikit-learn",
    "autograd": "autograd",
    "thinc": "thinc",
    "spacy": "spacy",
    "torch": "torch",
    "numba": "numba",
}
