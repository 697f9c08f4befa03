"""Arrays on NVIDIA GPUs: the rules of `cyopt.rules` as CUDA kernels.

    layout      what lies where in the memory that kernels read; names: their words
    rewrite     functions of `cyopt.rules` in those words
    source      the text of a kernel, from the text of a rule
    primitives  what kernels are made of; simulated: the same for Numba's simulator
    compiler    text -> cubin; cache: cubins in memory and on disk
    libraries   how torch's, CuPy's and other arrays are asked; arrays: one class for all of them
    driver      the calls of the CUDA driver
    tables      what a kernel reads about the arrays of a list
    gather      gradients of other strides or dtype, made dense
    measure     kernels that measure and decide; decision: what they need, and their order
    batches     which kernels update a list, and what each launch takes
    moved       gradients that lie elsewhere than in the last step
    streams     on which stream a step is launched, and after which others
    plan        a step: what is launched, in which order; kept: plans of the functional form

Of other packages nothing is imported before an array on a GPU is met or `cyopt.info()` is asked,
and Numba not before a kernel is compiled.
"""
