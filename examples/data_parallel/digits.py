"""The network of `python -m cyopt demo` learns handwritten digits on several ranks.

    pip install 'cyopt[mpi,demo]'
    mpiexec -n 2 python digits.py
    mpiexec -n 2 python digits.py --shard --save adam.npz    # sharded state, saved in one file

The mini-batches are the same for any number of ranks, and so are the losses, except for the order
in which gradients are added.
"""

import argparse

from mpi4py import MPI
from sklearn.datasets import load_digits

import cyopt
from cyopt.demo.network import accuracy, initial_parameters, loss_and_gradients
from cyopt.distributed import DataParallel, own_batches

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--shard", action="store_true", help="each rank keeps state for its share")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--save", metavar="PATH", help="where to save the optimizer's state at the end")
args = parser.parse_args()

comm = MPI.COMM_WORLD
digits = load_digits()
images, labels = digits.data / 16, digits.target
params = initial_parameters([64, 256, 128, 10], "float64", seed=comm.rank)  # rank 0's are taken
dp = DataParallel(cyopt.Adam(params, lr=1e-3), comm, shard=args.shard, check_every=100)

for epoch in range(args.epochs):
    total = 0.0
    for own, weight in own_batches(len(images), 64, comm, epoch=epoch):
        if len(own):
            loss, grads = loss_and_gradients(params, images[own], labels[own])
            for name, grad in reversed(grads.items()):
                dp.ready(name, weight * grad)
            total += loss * len(own)
        dp.step()
    mean = comm.allreduce(total) / len(images)
    if comm.rank == 0:
        print(f"epoch {epoch + 1}: loss {mean:.10f}", flush=True)

if args.save:
    dp.save(args.save)
if comm.rank == 0:
    print(f"{accuracy(params, images, labels):.1%} of the images are recognised")
