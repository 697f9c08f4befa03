"""What else takes a step on a GPU. `cyopt.bench.gpu.subject` waits for it, for all alike."""
