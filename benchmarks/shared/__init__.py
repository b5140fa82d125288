"""What several benchmarks use: timing in turns, networks, gradients, victims, peers written fairly."""
