"""A perceptron with a hidden layer whose whole training is one function that Numba compiles.

    pip install 'cyopt[numba]' scipy    # Numba's np.dot needs SciPy
    python perceptron.py

It learns which quadrant a point of the plane lies in; the data are generated here.
"""

import numpy as np
from numba import njit

import cyopt
from cyopt.integrations.numba import hyper, update

HIDDEN, CLASSES, BATCH = 32, 4, 50


@njit(nogil=True)
def train(points, labels, w1, b1, w2, b2, numbers, epochs):
    """All epochs of Adam, without Python and the GIL; the loss of each."""
    m1, v1, n1, u1 = np.zeros_like(w1), np.zeros_like(w1), np.zeros_like(b1), np.zeros_like(b1)
    m2, v2, n2, u2 = np.zeros_like(w2), np.zeros_like(w2), np.zeros_like(b2), np.zeros_like(b2)
    losses = np.zeros(epochs)
    step = 0
    for epoch in range(epochs):
        for first in range(0, len(points), BATCH):
            x, y = points[first : first + BATCH], labels[first : first + BATCH]
            hidden = np.maximum(np.dot(x, w1) + b1, np.float32(0))
            scores = np.dot(hidden, w2) + b2
            error = np.exp(scores)
            for i in range(len(x)):
                error[i] /= error[i].sum()
                losses[epoch] -= np.log(error[i, y[i]])
                error[i, y[i]] -= 1
            error /= np.float32(len(x))
            back = np.dot(error, w2.T) * (hidden > 0)
            step += 1
            update(numbers, step, w2, np.dot(hidden.T, error), (m2, v2))
            update(numbers, step, b2, error.sum(axis=0), (n2, u2))
            update(numbers, step, w1, np.dot(x.T, back), (m1, v1))
            update(numbers, step, b1, back.sum(axis=0), (n1, u1))
    return losses / len(points)


def main():
    """Train and print the result."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((2_000, 2)).astype(np.float32)
    labels = 2 * (points[:, 0] > 0) + (points[:, 1] > 0)
    w1 = rng.standard_normal((2, HIDDEN)).astype(np.float32)
    w2 = (rng.standard_normal((HIDDEN, CLASSES)) / HIDDEN).astype(np.float32)
    b1, b2 = np.zeros(HIDDEN, np.float32), np.zeros(CLASSES, np.float32)
    numbers = hyper(cyopt.Adam(lr=0.01), np.float32)
    losses = train(points, labels, w1, b1, w2, b2, numbers, 20)
    scores = np.maximum(points @ w1 + b1, 0) @ w2 + b2
    accuracy = 100 * (scores.argmax(axis=1) == labels).mean()
    print(f"loss {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last")
    print(f"accuracy {accuracy:.1f} %")


if __name__ == "__main__":
    main()
