"""Arrays on NVIDIA GPUs: the rules of `cyopt.rules` as CUDA kernels.

    layout      the layout of the memory that kernels read; names: the names that kernels use
    rewrite     functions of `cyopt.rules`, rewritten with those names
    source      the text of a kernel, made from the text of a rule
    primitives  arithmetic, loads and stores of kernels; simulated: the same for Numba's simulator
    compiler    text -> cubin; cache: cubins in memory and on disk
    libraries   how arrays of torch, CuPy and others are read; arrays: one class for all of them
    driver      the calls of the CUDA driver
    tables      what kernels read about the arrays of a list
    gather      gradients of other strides or dtype, made dense
    measure     kernels that measure and decide; decision: their arguments and launch order
    batches     which kernels update a list, and which chunks each launch takes
    moved       gradients at other addresses than in the last step
    streams     the stream of a step, and its order with other streams
    plan        a step: its launches and their order; kept: plans of the functional form

No other package except NumPy is imported before the first array on a GPU or the first
`cyopt.info()`, and Numba not before a kernel is compiled.
"""
