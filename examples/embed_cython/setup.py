"""Builds the module: `pip install --no-build-isolation .` where cyopt and Cython are installed."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import cyopt

logistic = Extension("logistic", ["logistic.pyx"], include_dirs=[cyopt.get_include()])
setup(ext_modules=cythonize([logistic]))
