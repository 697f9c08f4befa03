"""Interrupts and missing memory in steps on a GPU that is this CPU: see gpu_of_host.py."""

import numpy as np
import pytest
from gpu_of_host import HostArray
from gpu_pair import Pair, interrupt_after_the_step, one
from same_bits import same_bits

import cyopt
from cyopt.cuda import layout, tables


@pytest.mark.parametrize("allocation", [1, 2])
def test_steps_are_right_after_one_without_memory(gpu, monkeypatch, allocation):
    pair = Pair(clip_norm=0.1, skip_nonfinite=True)
    pair.step()
    allocate, n = gpu.allocate, 0

    def refuse(nbytes):
        nonlocal n
        n += 1
        if n == allocation:
            raise MemoryError
        return allocate(nbytes)

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "allocate", refuse)
        with pytest.raises(MemoryError):
            pair.opt.step([*pair.own_grads[:1], *[None] * len(pair.own_grads[1:])])
    for _ in range(2):
        pair.step()
        pair.same()


@pytest.mark.parametrize(
    ("options", "norms"),
    [
        ({"ema": 0.5, "zero_grads": True}, False),
        ({"clip_norm": 0.1}, True),
        ({"skip_nonfinite": True, "zero_grads": True}, True),
    ],
    ids=str,
)
def test_an_interrupt_while_a_step_clears_or_copies_undoes_it(gpu, monkeypatch, options, norms):
    """Launches are compiled: no signal handler runs in them."""
    do, n = gpu._do, 0

    def interrupted(name, *args):
        nonlocal n
        n += name in ("clear", "copy")
        if n == last:
            raise KeyboardInterrupt
        do(name, *args)

    last, interrupts = 1, True
    while interrupts:
        pair = Pair(shapes=[(6, 6), (3,)], **options)
        wide = np.array(pair.grads[0]).repeat(2, axis=1)
        pair.own_grads[0] = HostArray(wide[:, ::2])
        before = [wide.copy(), pair.opt.state_dict()["steps"]]
        with monkeypatch.context() as patch:
            patch.setattr(gpu, "_do", interrupted)
            n, interrupts = 0, False
            try:
                pair.opt.step(pair.own_grads, norms=norms)
            except KeyboardInterrupt:
                interrupts = True
        if interrupts:
            assert same_bits(wide, before[0])
            assert pair.opt.steps == before[1]
            pair.opt.step(pair.own_grads, norms=norms)
        pair.cpu.step(pair.grads, norms=norms)
        pair.same()
        last += 1
    assert last > 2


def test_norms_are_right_after_an_interrupt_while_they_are_prepared(gpu, monkeypatch):
    """Else the next step would write to addresses of 0."""
    pair, put = Pair(), tables.Table.set
    pair.step()

    def interrupted(table, values, place):
        if place == np.s_[:, layout.OLD]:
            raise KeyboardInterrupt
        put(table, values, place)

    with monkeypatch.context() as patch:
        patch.setattr(tables.Table, "set", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pair.opt.step(pair.own_grads, norms=True)
    pair.step(norms=True)
    pair.same()


def test_a_gradient_is_read_where_it_lies_after_an_interrupted_upload(gpu, monkeypatch):
    param, (a, b) = np.zeros(4, np.float32), (HostArray(np.full(4, x, np.float32)) for x in (1, 9))
    opt, put = cyopt.SGD([HostArray(param)], lr=1.0), tables.Table.set
    for _ in range(2):
        opt.step([a])

    def interrupted(table, values, place):
        put(table, values, place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tables.Table, "set", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step([b])
    opt.step([a])
    assert (param == -3).all()


@pytest.mark.parametrize(
    ("option", "measured"), [("skip_nonfinite", (True, None)), ("clip_norm", (False, 2.0))]
)
def test_an_interrupted_step_leaves_what_the_last_one_measured(gpu, monkeypatch, option, measured):
    opt, grads = one(**{option: 1.0 if option == "clip_norm" else True})
    opt.step(grads)
    if option == "skip_nonfinite":
        grads[0].array[0] = np.nan
        opt.step(grads)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "_do", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step(grads)
    skipped, norm = measured
    assert opt.skipped is skipped
    assert opt.grad_norm == norm or np.isnan(opt.grad_norm)


@pytest.mark.parametrize("option", ["skip_nonfinite", "capturable"])
def test_an_interrupt_loses_no_step_that_only_the_gpu_has_counted(gpu, monkeypatch, option):
    pair = Pair(**{option: True})
    for _ in range(5):
        pair.step()
    do = gpu._do

    def interrupted(name, *args):
        if name == "clear":
            raise KeyboardInterrupt
        do(name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "_do", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pair.opt.step(pair.own_grads)
    pair.step()
    assert pair.opt.steps == 6
    pair.same()


@pytest.mark.parametrize("options", [{"skip_nonfinite": True}, {"clip_norm": 0.1}, {}], ids=str)
def test_a_step_counts_if_an_interrupt_follows_it(gpu, monkeypatch, options):
    pair = Pair(**options)
    pair.step()
    assert pair.opt.steps == 1  # the host knows it, and no more
    with interrupt_after_the_step(monkeypatch):
        pair.opt.step(pair.own_grads)
    pair.cpu.step(pair.grads)
    assert pair.opt.steps == 2
    pair.step()
    pair.same()


@pytest.mark.parametrize("keyed", [False, True])
def test_a_first_step_counts_if_an_interrupt_follows_it(gpu, monkeypatch, keyed):
    param, grad = (HostArray(np.ones(4, np.float32)) for _ in range(2))
    opt = cyopt.Adam(skip_nonfinite=True)
    with interrupt_after_the_step(monkeypatch):
        opt.update("w", param, grad) if keyed else opt.step([grad], [param])
    assert opt.steps == 1
    assert len(opt.state) == 1


def test_an_interrupt_after_a_step_leaves_the_streams_in_order(gpu, monkeypatch):
    """Else the gradient could be overwritten while it is read."""
    w, g = np.ones(4, np.float32), HostArray(np.ones(4, np.float32), stream=9)
    opt = cyopt.SGD([HostArray(w, stream=7)], lr=0.5)
    opt.step([g])
    gpu.log.clear()
    with interrupt_after_the_step(monkeypatch):
        opt.step([g])
    assert gpu.log == [("order", 7, 9), ("launch", 7), ("order", 9, 7)]
    assert opt.steps == 2
