"""Random tables of gradients: every distance, on every backend, against its definition in long double."""
