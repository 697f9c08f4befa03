"""Run by test_mpi.py: `mpiexec -n RANKS python mpi_jobs.py JOB ...`."""

import itertools
import os
import signal
import sys
import time

import numpy as np
from mpi4py import MPI
from same_bits import same_bits, same_states

import cyopt
from cyopt.distributed import DataParallel
from cyopt.distributed.failure import Watch

COMM = MPI.COMM_WORLD
SHAPES = {"w1": (130, 70), "b1": (70,), "none": (0,), "s": (), "w2": (70, 9), "b2": (9,)}
OPTIONS = [
    {},
    {"clip_norm": 0.5},
    {"clip_norm": 0.5, "clip_scope": "array", "grad_scale": 4.0, "maximize": True},
    {"skip_nonfinite": True, "zero_grads": True},
    {"skip_nonfinite": True, "clip_norm": 1.0, "ema": 0.75, "clip_value": 0.125},
    {"lr": cyopt.schedules.time_based(0.1, 0.5), "cast_grads": True},
]
CLASSES = [cyopt.AdamW, cyopt.Momentum, cyopt.AdaGrad, cyopt.RMSProp, cyopt.SGD]


def made(cls, dtype, order="C", groups=False, **options):
    """Parameters, and an optimizer of them."""
    rng = np.random.default_rng(7)
    params = {
        name: np.asarray(rng.normal(size=shape), dtype.replace("mixed", "f8"), order=order)
        for name, shape in SHAPES.items()
    }
    if dtype == "mixed":
        params = {name: p.astype(("f4", "f8")[i % 2]) for i, (name, p) in enumerate(params.items())}
    tree = params
    if groups:
        half = len(params) // 2
        first, second = dict(list(params.items())[:half]), dict(list(params.items())[half:])
        tree = [{"params": first, "lr": 0.5}, {"params": second, "weight_decay": 0.25}]
    return params, cls(tree, **options)


def gradients(params, step, ranks, kind="", most=100):
    """Of each rank, and their mean: integers whose sums and quotients are exact.

    Of 22 bits, for 4 ranks, squares are not.
    """
    rng = np.random.default_rng(step)
    unit = 1 << (most.bit_length() - 1)
    own = [{n: rng.integers(-most, most + 1, p.shape) / unit for n, p in params.items()}
           for _ in range(ranks)]  # fmt: skip
    mean = {n: sum(g[n] for g in own) for n in params}
    given = own[COMM.rank] if len(own) > 1 else own[0]
    given = {n: np.asarray(ranks * g, params[n].dtype) for n, g in given.items()}
    mean = {n: np.asarray(g, params[n].dtype) for n, g in mean.items()}
    if kind == "nan":
        mean["w1"][100, 3] = np.nan
        if COMM.rank == ranks - 1:
            given["w1"][100, 3] = np.nan
    if kind == "missing":
        mean["w2"] = given["w2"] = None
        if COMM.rank:
            given["b1"] = None
            mean["b1"] = None
        mean["b1"] = np.asarray(own[0]["b1"], params["b1"].dtype)
    return given, mean


def as_tree(grads, groups):
    half = len(grads) // 2
    items = list(grads.items())
    return [dict(items[:half]), dict(items[half:])] if groups else grads


def same_everywhere(params, expected, dp, opt):
    for name, param in params.items():
        assert same_bits(param, expected[name]), name
    ours, theirs = dp.state_dict(), opt.state_dict()
    if COMM.rank == 0:
        same_states(ours, theirs)


def bits():
    """Parameters and state are those of one optimizer that gets the mean gradient."""
    runs = list(itertools.product((False, True), ("f4", "f8", "mixed"), OPTIONS))
    for n, (shard, dtype, options) in enumerate(runs):
        cls, groups, order = CLASSES[n % len(CLASSES)], n % 3 == 1, "CF"[n % 2]
        args = {"dtype": dtype, "order": order, "groups": groups, **options}
        params, opt = made(cls, **args)
        expected, reference = made(cls, **args)
        if COMM.rank:
            for param in params.values():
                param[...] = 0  # what rank 0 has is given to all
        bucket = (64, 4096, 10_000, 1 << 20)[n % 4]
        dp = DataParallel(opt, COMM, shard=shard, bucket_bytes=bucket, check_every=2)
        for step, kind in enumerate(
            ["", "nan" if "skip_nonfinite" in options else "", "missing", ""]
        ):
            given, mean = gradients(params, step, COMM.size, kind, most=1 << 22)
            done = dp.step(as_tree(given, groups))
            assert done == reference.step(as_tree(mean, groups))
            assert dp.skipped == reference.skipped == (kind == "nan")
            assert repr(dp.grad_norm) == repr(reference.grad_norm), (
                dp.grad_norm,
                reference.grad_norm,
            )
            if options.get("zero_grads"):
                assert not any(g.any() for g in given.values() if g is not None)
        same_everywhere(params, expected, dp, reference)
    print("same", flush=True)


def overlap():
    """Gradients one by one in an order of each rank's own, and of several local batches."""
    for shard in (False, True):
        params, opt = made(cyopt.Adam, "f4")
        expected, reference = made(cyopt.Adam, "f4")
        dp = DataParallel(opt, COMM, shard=shard, bucket_bytes=512)
        for step in range(4):
            batches = [gradients(params, 10 * step + i, COMM.size) for i in range(1 + step % 3)]
            for given, _ in batches[:-1]:
                dp.accumulate(given)
            names = list(params)
            np.random.default_rng([COMM.rank, step]).shuffle(names)
            if step == 2:  # some ranks more than others, and the rest by step
                names = list(reversed(params))[: 1 + 4 * (COMM.rank % 2)]
                late = {n: None if n in names else g for n, g in batches[-1][0].items()}
            for name in names:
                dp.ready(name, batches[-1][0][name])
            dp.step(late if step == 2 else None)
            reference.step({n: sum(mean[n] for _, mean in batches) for n in params})
        same_everywhere(params, expected, dp, reference)
    print("same", flush=True)


def memory():
    """State of a rank: its part of the whole, and less than a bucket more."""
    params = [np.zeros(n, np.float32) for n in (100_003, 17, 50_000, 1)]
    dp = DataParallel(opt := cyopt.Adam(params), COMM, shard=True, bucket_bytes=65536)
    held = sum(array.nbytes for entry in opt.state.values() for array in entry.values())
    whole = 2 * sum(param.nbytes for param in params)
    assert held <= whole / COMM.size + 65536, (held, whole)
    assert COMM.allreduce(held) == whole
    assert dp.step([np.ones_like(param) for param in params])
    print("kept", flush=True)


def checks():
    """Bits that differ are found on all ranks."""
    params, opt = made(cyopt.SGD, "f4")
    dp = DataParallel(opt, COMM, check_every=1)
    if COMM.rank == COMM.size - 1:
        params["b2"][3] += 1
    try:
        dp.step(gradients(params, 0, COMM.size)[0])
    except RuntimeError as error:
        assert f"'b2' has other bits on rank {COMM.size - 1} than on rank 0" in str(error)
        print("found", flush=True)


def differences():
    """Each is named on every rank."""

    def tell(action):
        try:
            action()
            text = "nothing"
        except ValueError as error:
            text = str(error)
        texts = COMM.gather(text)
        if COMM.rank == 0:
            print(texts[0] if len(set(texts)) == 1 else texts, flush=True)

    last = COMM.rank == COMM.size - 1
    shape, dtype = (3, 4) if last else (4, 3), np.float64 if last else np.float32
    tell(lambda: DataParallel(cyopt.Adam({"w": np.ones(shape)}), COMM))
    tell(lambda: DataParallel(cyopt.Adam({"w": np.ones(3, dtype)}), COMM))
    tell(lambda: DataParallel(cyopt.Adam({"v" if last else "w": np.ones(3)}), COMM))
    tell(lambda: DataParallel(cyopt.Adam([np.ones(3)], lr=0.5 if last else 0.1), COMM))
    tell(lambda: DataParallel(cyopt.Adam([np.ones(3)]), COMM, shard=last))
    tell(lambda: DataParallel((cyopt.SGD if last else cyopt.Adam)([np.ones(3)]), COMM))
    dp = DataParallel(opt := cyopt.SGD([np.ones(3)]), COMM)
    opt.lr = 0.5 if last else 0.1
    tell(lambda: dp.step([np.ones(3)]))


def alike(params, step):
    """The same gradients on all ranks, whose mean over 1, 2, 3 or 4 of them is exact."""
    return {name: 12 * grad for name, grad in gradients(params, step, 1)[1].items()}


def refusals():
    """What is wrong is reported before anything is sent; the next step is as if it had not been."""
    for shard in (False, True):
        refused(shard)


def refused(shard):
    params, opt = made(cyopt.Adam, "f4")
    expected, reference = made(cyopt.Adam, "f4")
    dp = DataParallel(opt, COMM, shard=shard)
    given, mean = gradients(params, 0, COMM.size)
    dp.ready("w2", given["w2"])
    rest = {**given, "w2": None}
    wrong = [
        lambda: dp.ready("w2", given["w2"]),
        lambda: dp.ready("w3", given["w2"]),
        lambda: dp.ready("b2", None),
        lambda: dp.ready("b2", given["b2"].astype("f8")),
        lambda: dp.ready("b2", params["b2"]),
        lambda: dp.step(given),
        lambda: dp.step({**rest, "b1": given["b1"][1:]}),
        lambda: dp.step({"w1": given["w1"]}),
        lambda: dp.load_state_dict({"state": {}}),
        lambda: opt.step(rest) if shard else dp.step([]),
        lambda: DataParallel(cyopt.Adam(), COMM),
    ]
    for call in wrong:
        try:
            call()
        except (KeyError, TypeError, ValueError) as error:
            if COMM.rank == 0:
                print(type(error).__name__, *str(error).split()[:9], flush=True)
        else:
            raise AssertionError("it was taken")
    dp.step(rest)
    reference.step(mean)
    same_everywhere(params, expected, dp, reference)


def told(action):
    """The text of the error that an action raises."""
    try:
        action()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        return str(error)
    raise AssertionError("it was taken")


def two_optimizers():
    """Two at a time, whose buckets are complete in another order on each rank."""
    n = COMM.size
    a, b = np.zeros(4), np.zeros(4)
    first = DataParallel(cyopt.SGD({"a": a}, lr=1.0), COMM)
    second = DataParallel(cyopt.SGD({"b": b}, lr=1.0), COMM)
    if COMM.rank == 0:
        first.ready("a", np.full(4, 1.0 * n))
    second.ready("b", np.full(4, 8.0 * n))
    first.step()
    second.step()
    assert (a == -1).all() and (b == -8 * n).all(), (a, b)
    # accumulate() comes before the first ready() of a step.
    first.ready("a", a * 0)
    assert "accumulate" in told(lambda: first.accumulate({"a": a + 1}))
    first.step()
    assert (a == -1).all()
    print("right", flush=True)


def clipping():
    """By the same norm with and without shards, where numbers are subnormal or NaN too."""
    # An empty array has no part in the norm.
    for seed in range(20):
        rng = np.random.default_rng(seed)
        grads = [rng.integers(-(1 << 22), 1 << 22, k) / (1 << 22) for k in (0, 100, 70, 1, 9, 33)]
        norms = []
        for shard in (False, True):
            dp = DataParallel(cyopt.SGD([g * 0 for g in grads], clip_norm=0.5), COMM, shard=shard)
            dp.step(grads if COMM.size in (1, 2, 4) else [3 * g for g in grads])
            norms.append(dp.grad_norm)
        assert norms[0] == norms[1]
    # A coefficient that float32 has as a subnormal number only, which kernels flush.
    for mode in ("flush", "keep"):
        cyopt.set_subnormals(mode)
        results = []
        for shard in (False, True):
            p = np.zeros(3, np.float32)
            dp = DataParallel(cyopt.SGD([p], lr=1.0, clip_norm=1e-3), COMM, shard=shard)
            dp.step([np.array([0.5, -0.25, 0.75], np.float32) * np.float32(2.0**118)])
            results.append(p)
        assert same_bits(*results), results
    # A norm of NaN: clipping makes all of it NaN.
    p, q = np.ones(2), np.ones(200)
    dp = DataParallel(cyopt.SGD([p, q], lr=0.5, clip_norm=1.0), COMM, shard=True)
    dp.step([np.array([np.nan, 1.0]), np.ones(200)])
    assert np.isnan(p).all() and np.isnan(q).all()
    print("right", flush=True)


def construction():
    """What DataParallel takes over from rank 0, and what it asks of all ranks."""
    # Averages begin as copies of rank 0's parameters, also where no gradient comes.
    w = np.full(60, 1.0 + COMM.rank)
    opt = cyopt.SGD({"w": w}, ema=0.5)
    DataParallel(opt, COMM).step({"w": None})
    assert (opt.averages["w"] == 1).all() and (w == 1).all()
    # A schedule inside betas is the same on all ranks, whatever its address.
    DataParallel(cyopt.Adam([w * 1], betas=(lambda t: 0.9, 0.999)), COMM)
    assert "at least 1" in told(lambda: DataParallel(cyopt.SGD([w]), COMM, bucket_bytes=-1))
    print("right", flush=True)


def replaced():
    """A parameter that is put in another's place is followed, if it is like it."""
    for shard in (False, True):
        params = {"w": np.ones(60), "b": np.ones(3)}
        dp = DataParallel(cyopt.SGD(params, lr=0.5), COMM, shard=shard, check_every=1)
        dp.step({"w": np.ones(60), "b": np.ones(3)})
        old, params["w"] = params["w"], np.full(60, 10.0)
        dp.step({"w": np.ones(60), "b": np.ones(3)})
        assert (params["w"] == 9.5).all() and (params["b"] == 0).all() and (old == 0.5).all()
        params["w"] = np.ones(61)
        assert "it was float64 of shape (60,)" in told(
            lambda dp=dp: dp.step({"w": np.ones(60), "b": np.ones(3)})
        )
    print("right", flush=True)


def unfit(folder):
    """Nothing of an unfit state_dict is taken; a file that cannot be written fails on all ranks."""
    w = np.ones(60)
    dp = DataParallel(opt := cyopt.Adam({"w": w.copy()}), COMM, shard=True)
    dp.step({"w": w})
    for spoil in ({"step": "x"}, {"step": -5}, {"exp_avg": [1.0]}, {"exp_avg": np.ones(3)}):
        saved = COMM.bcast(dp.state_dict())
        saved["state"]["w"].update(spoil)
        saved["steps"] = 7
        told(lambda saved=saved: dp.load_state_dict(saved))
        assert opt.steps == 1
    assert "mapping with" in told(lambda: dp.load_state_dict({"steps": 1}))
    text = told(lambda: dp.save(f"{folder}/missing/adam.npz"))
    assert "No such file" in text and ("rank 0" in text) == (COMM.rank > 0)
    print("right", flush=True)


def in_a_thread():
    import threading

    dp = DataParallel(cyopt.SGD([np.ones(3)]), COMM)

    def train():
        for step in range(5):
            if step == 2 and COMM.rank == 1:
                raise ValueError("in a thread")
            dp.step([np.ones(3)])

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()


def exits():
    dp = DataParallel(cyopt.SGD([np.ones(3)]), COMM)
    for step in range(5):
        if step == 2 and COMM.rank == 1:
            sys.exit("no more data")
        dp.step([np.ones(3)])


def ends_inside():
    """Rank 1 waits for the others in its step, and a signal handler ends it there."""
    dp = DataParallel(cyopt.SGD([np.ones(3)]), COMM)
    dp.step([np.ones(3)])
    if COMM.rank == 1:
        signal.signal(signal.SIGALRM, lambda *_: sys.exit("no more time"))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    else:
        time.sleep(0.6)
    dp.step([np.ones(3)])


def fewer():
    """One rank has fewer batches."""
    dp = DataParallel(cyopt.SGD([np.ones(3)]), COMM)
    for _ in range(4 if COMM.rank == 1 else 5):
        dp.step([np.ones(3)])


def turns():
    """Two optimizers in turn; one rank ends while others wait in the one that was made first."""
    first, second = (DataParallel(cyopt.SGD([np.ones(3)]), COMM) for _ in range(2))
    for _ in range(4 if COMM.rank == 1 else 5):
        first.step([np.ones(3)])
        second.step([np.ones(3)])


def resumed():
    """Optimizers that have other state on each rank continue from that of rank 0."""
    for shard in (False, True):
        params, opt = made(cyopt.Adam, "mixed", ema=0.5)
        opt.step({name: np.full_like(p, COMM.rank + 1) for name, p in params.items()})
        dp = DataParallel(opt, COMM, shard=shard)
        expected, alone = made(cyopt.Adam, "mixed", ema=0.5)
        for size in (1, 3):
            alone.step({name: np.full_like(p, size) for name, p in expected.items()})
        dp.step({name: np.full_like(p, 3) for name, p in params.items()})
        same_everywhere(params, expected, dp, alone)
    print("same", flush=True)


def unbound():
    DataParallel(cyopt.SGD() if COMM.rank == 1 else cyopt.SGD([np.ones(3)]), COMM)


def checkpoint(path, what, shard):
    """Four steps, of which `what` makes the first or the last two."""
    params, opt = made(cyopt.Adam, "mixed", order="F", ema=0.5, clip_norm=1.0)
    dp = DataParallel(opt, COMM, shard=shard == "shard", bucket_bytes=3000)
    weights = f"{path}.weights.npz"
    if what == "last":
        dp.load(path)
        for name, values in np.load(weights).items():
            params[name][...] = values
    for step in (0, 1) if what == "first" else (2, 3):
        dp.step(alike(params, step))
    if what == "first":
        dp.save(path)
        if COMM.rank == 0:
            np.savez(weights, **params)
    else:
        expected, reference = made(cyopt.Adam, "mixed", order="F", ema=0.5, clip_norm=1.0)
        for step in range(4):
            reference.step(alike(expected, step))
        same_everywhere(params, expected, dp, reference)
    print("done", flush=True)


def raises():
    dp = DataParallel(cyopt.SGD([np.ones(3)]), COMM)
    for step in range(10):
        if step == 3 and COMM.rank == 1:
            raise ValueError("the loss is not a number")
        dp.step([np.ones(3)])


def ended():
    """Rank 0 still waits when the message that the others have ended is here."""
    watch = Watch(COMM)

    class Communication:
        def Test(self):  # noqa: N802  # as of MPI
            return COMM.rank > 0 or len(watch._ended) == COMM.size - 1

    watch.wait(Communication())
    watch.count()
    print("right", flush=True)


def dies():
    dp = DataParallel(cyopt.SGD([np.ones(3)]), COMM)
    for step in range(10):
        if step == 3 and COMM.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dp.step([np.ones(3)])


if __name__ == "__main__":
    cyopt.set_num_threads(1)
    globals()[sys.argv[1]](*sys.argv[2:])
