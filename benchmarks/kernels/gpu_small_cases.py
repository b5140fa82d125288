"""Small calls through every tier of both GPU families, for compute-sanitizer to watch.

python -m benchmarks.kernels.gpu_small_cases
"""

import torch

import sapag_fast as sf
from sapag_fast.distances import operators as ops

# Odd sizes, one element, none, a layer too large for one block, one too large for a cluster.
SHAPES = [(12, 1, 5, 5), (12,), (1,), (0, 3), (257, 129), (257,), (1031, 509), (3001, 401)]


def main() -> None:
    families = (["cuda"] if ops.has_cuda_kernels() else []) + (["triton"] if ops.has_triton() else [])
    generator = torch.Generator().manual_seed(0)
    for recoveries in (1, 3):
        target = [torch.randn(recoveries, *shape, generator=generator).cuda() for shape in SHAPES]
        dummy = [t + 0.1 * torch.randn(t.shape, generator=generator).cuda() for t in target]
        for family in families:
            for kind in ("sapag", "cosine", "tag"):
                distance = sf.GradientDistance(kind, batched=True, backend=family)
                for _ in range(2):
                    value, _ = distance.distance_and_gradient(dummy, target)
                leaves = [t.clone().requires_grad_() for t in dummy]
                (-2.0 * distance(leaves, target)).sum().backward()
                print(family, kind, recoveries, value.tolist())


if __name__ == "__main__":
    main()
