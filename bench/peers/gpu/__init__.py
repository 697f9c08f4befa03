"""What else takes a step on a GPU. `cyopt.bench.gpu.subject` waits for all of them alike."""
