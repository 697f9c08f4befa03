"""Builds the module: `pip install --no-build-isolation .`

Run it where cyopt, Cython, `setuptools>=77` and wheel are installed.
"""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

import cyopt

logistic = Extension("logistic", ["logistic.pyx"], include_dirs=[cyopt.get_include()])
# Where `cimport cyopt` finds it: Cython does not search editable installs.
packages = str(Path(cyopt.__file__).parents[1])
setup(ext_modules=cythonize([logistic], include_path=[packages]))
