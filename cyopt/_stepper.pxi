# Included by _cpu.pyx: `step` and `update`, as users call them. In Python these few lines took
# 0.1 us, a quarter of a small step.

@cython.auto_pickle(False)
cdef class Stepper:
    """`step` and `update`. Their fast path, for a step like the last one, is one call of a plan;
    their slow path is `_step` and `_update` of `cyopt.optimizer.Optimizer`."""
    cdef public bint _bound, _grouped       # whether it has parameters; in groups
    cdef public object _given, _structure   # the parameters as they were given; their `trees.Node`
    cdef public dict _lists                 # `ParameterList`s by `update`'s key; None: `step`'s one
    cdef public Gate _gate

    def step(self, grads, params=None, bint norms=False, stream=None):
        """Update all parameters in place from their gradients.

        Returns True, or False if `skip_nonfinite` skipped the step, which then changed nothing
        except, with `zero_grads`, the gradients. Where a GPU decides that, or counts the steps
        (`capturable`), it returns None, without waiting.

        `grads` has the structure of the parameters; a None in it skips a parameter. A gradient may
        have any strides and, without `zero_grads`, may be read-only. `params` is for an optimizer
        made without parameters. With `norms`, `grad_norm`, `update_norm` and `param_norm` are
        measured. `stream` is for arrays on a GPU: the stream to step on, instead of the current one
        of the library that owns them. The step is then ordered only by that stream: the caller must
        order steps of one optimizer on several streams, and keep gradients until the step has read
        them (torch: `grad.record_stream(stream)`).

        Everything is checked before a byte is written; an exception leaves parameters, state and
        counters as they were. Raises TypeError or ValueError, which names the argument.
        """
        if params is None:
            if not self._bound:
                raise TypeError(
                    "this optimizer is made without parameters: call step(grads, params)"
                )
            params = self._tree() if self._grouped else self._given
        elif self._bound:
            raise TypeError("this optimizer is bound to its parameters: call step(grads)")
        structure = self._structure
        done = None
        if stream is None:
            done = self._again(None, params, grads, structure, norms)
        if done is None:
            done = self._gate.run(self._step, params, grads, norms, stream)
        return done if type(done) is bool else None  # `PENDING`: a GPU decides it

    def update(self, key, param, grad, stream=None):
        """Update one array in place and return it; its state is created when `key` is first seen.

        Each key has its own step count, which also feeds the schedules; `steps` is the largest.
        `clip_norm`, `skip_nonfinite` and the norms are of this array only. For `stream` see `step`.
        `copy.deepcopy` copies keys as well: one that is hashed by its identity, such as a layer,
        finds its state in the copy only if it is copied together with the optimizer.

        >>> import numpy as np, cyopt
        >>> opt, w = cyopt.SGD(lr=0.5), np.array([1.0, 2.0])
        >>> opt.update("w", w, np.array([1.0, 1.0])) is w
        True
        >>> w
        array([0.5, 1.5])
        """
        if self._bound or None in self._lists:
            raise TypeError(
                "this optimizer takes all parameters in step(): do not mix step() and update()"
            )
        if cnp.PyArray_Check(key) or key is None or grad is None:
            raise TypeError(
                f"key is {key!r} and grad is a {type(grad).__name__}; expected a key, the"
                " first argument of update(key, param, grad), and an array: to skip a parameter, do"
                " not call update"
            )
        done = None
        try:
            if stream is None:
                done = self._again(key, param, grad, None, False)
            if done is None:
                self._gate.run(self._update, key, param, grad, stream)
        except TypeError:
            _check_hashable(key)
            raise
        return param

    cdef object _again(self, key, params, grads, structure, bint norms):
        """A step of the list of this key, if its plan finds everything unchanged; else None."""
        parameters = self._lists.get(key)
        plan = parameters.plan if parameters is not None else None
        if type(plan) is Plan:  # called as C, without Python's arguments
            return (<Plan>plan).again(self._gate, params, grads, structure, norms)
        if plan is None:
            return None
        return plan.again(self._gate, params, grads, structure, norms)


def _check_hashable(key):
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(f"key is {key!r}: {error}; expected a key such as a name") from None
