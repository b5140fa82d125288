"""Breaks the CUDA kernels on purpose, one line at a time, and requires that the emulated tests notice.

    python tests/mutations.py [--jobs 2] [--only PATTERN]

Each mutation is applied to a copy of csrc, built, and run on a part of what test_cuda_emulated.py runs:
plain, under ThreadSanitizer, under AddressSanitizer, until one of them fails. Prints which one it was.
A mutation that none of them notices makes the script fail.
"""

import argparse
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from emulation.toolchain import EMULATION, ROOT, BuildError, Outcome, Toolchain, execute, missing

MODES = {"plain": (600,), "thread": (200, "small"), "address": (60,)}
HEADERS = (".cuh", ".h")


@dataclass(frozen=True)
class Mutation:
    file: str
    old: str
    new: str
    what: str


MUTATIONS = [
    # Barriers and fences.
    Mutation(
        "block_tier.cu",
        "unit_sums[column * units + i] = sum; });\n  }\n  __syncthreads();",
        "unit_sums[column * units + i] = sum; });\n  }",
        "block: no barrier between units and merge",
    ),
    Mutation(
        "block_tier.cu",
        "totals[column] = total;\n  }\n  __syncthreads();",
        "totals[column] = total;\n  }",
        "block: no barrier between merge and solve",
    ),
    Mutation(
        "block_tier.cu",
        "if (!parameters.with_gradient) return;\n  __syncthreads();",
        "if (!parameters.with_gradient) return;",
        "block: no barrier between solve and V",
    ),
    Mutation(
        "block_tier.cu",
        "    });\n  }\n  __syncwarp();",
        "    });\n  }",
        "packed: no __syncwarp before solve",
    ),
    Mutation(
        "block_tier.cu",
        "  __syncwarp();\n  if (!parameters.with_gradient) return;",
        "  if (!parameters.with_gradient) return;",
        "packed: no __syncwarp before V",
    ),
    Mutation(
        "cluster_tier.cu",
        "unit_sums[column * capacity + i] = sum; });\n  }\n  __syncthreads();",
        "unit_sums[column * capacity + i] = sum; });\n  }",
        "cluster: no barrier between units and chunks",
    ),
    Mutation(
        "cluster_tier.cu",
        "  cluster_sync();\n\n  for (int column",
        "  __syncthreads();\n\n  for (int column",
        "cluster: own CTA's barrier before reading the others",
    ),
    Mutation(
        "cluster_tier.cu",
        "totals[column] = total;\n  }\n  __syncthreads();",
        "totals[column] = total;\n  }",
        "cluster: no barrier between merge and solve",
    ),
    Mutation(
        "cluster_tier.cu",
        "  cluster_sync();\n\n  const Affine<T> affine(*slope);",
        "  __syncthreads();\n\n  const Affine<T> affine(*slope);",
        "cluster: CTAs end while others read them",
    ),
    Mutation(
        "grid_tier.cu",
        "    grid_sync(barrier, members);\n",
        "    __syncthreads();\n",
        "grid: no barrier over the grid",
    ),
    Mutation(
        "primitives.cuh",
        "(&barrier->generation);\n    __threadfence();\n    if (atomicAdd",
        "(&barrier->generation);\n    if (atomicAdd",
        "grid: no fence before arrival",
    ),
    Mutation(
        "primitives.cuh",
        "atomicExch(&barrier->arrived, 0u);\n      __threadfence();",
        "atomicExch(&barrier->arrived, 0u);",
        "grid: the last to arrive opens without a fence",
    ),
    Mutation(
        "primitives.cuh",
        "spin_pause();\n    }\n  }\n  __syncthreads();\n}",
        "spin_pause();\n    }\n  }\n}",
        "grid: the others do not wait for thread 0",
    ),
    Mutation(
        "primitives.cuh",
        "unsigned members) {\n  __syncthreads();",
        "unsigned members) {",
        "grid: thread 0 does not wait for the others",
    ),
    Mutation(
        "primitives.cuh",
        "atomicAdd(&barrier->arrived, 1u) == members - 1",
        "barrier->arrived++ == members - 1",
        "grid: arrivals are not atomic",
    ),
    Mutation(
        "primitives.cuh",
        "== members - 1",
        "== members",
        "grid: one arrival too many awaited",
    ),
    Mutation(
        "grid_tier.cu",
        "    __syncthreads();  // the next wave",
        "    // the next wave",
        "grid: no barrier between waves",
    ),
    Mutation(
        "grid_tier.cu",
        "wave / groups % 2",
        "0 * wave",
        "grid: waves share one buffer of sums",
    ),
    Mutation(
        "merge.cu",
        "totals[threadIdx.x] = total;\n  __syncthreads();",
        "totals[threadIdx.x] = total;",
        "merge: no barrier before the result",
    ),
    Mutation(
        "merge.cu",
        "supers[column * kSupers + super] = sum;\n    }\n    __syncthreads();",
        "supers[column * kSupers + super] = sum;\n    }",
        "merge: no barrier before adding supers",
    ),
    # Shuffles.
    Mutation(
        "unit_sums.cuh",
        "__shfl_xor_sync(kFullWarp, give, bit)",
        "__shfl_xor_sync(kFullWarp, give, bit / 2)",
        "fold: half the shuffle's offset",
    ),
    Mutation(
        "unit_sums.cuh",
        "for (int bit = 16; bit > 0; bit /= 2) value += __shfl_xor_sync(kFullWarp, value, bit);",
        "for (int bit = 8; bit > 0; bit /= 2) value += __shfl_xor_sync(kFullWarp, value, bit);",
        "butterfly: half the warp",
    ),
    Mutation(
        "unit_sums.cuh",
        "value += __shfl_xor_sync(kFullWarp, value, bit);",
        "value += __shfl_xor_sync(kFullWarp, value, bit, 16);",
        "butterfly: width 16",
    ),
    Mutation(
        "unit_sums.cuh",
        "value += __shfl_xor_sync(kFullWarp, value, bit);",
        "value += __shfl_xor_sync(0x7fffffffu, value, bit);",
        "butterfly: a lane missing in the mask",
    ),
    # Tails, alignment, sizes, offsets, ranks.
    Mutation(
        "units.cuh",
        "if (i + k < size) raw[k] = p[i + k];",
        "if (i + k + 1 < size) raw[k] = p[i + k];",
        "gather: the last element dropped",
    ),
    Mutation(
        "units.cuh",
        "if (i + k < size) raw[k] = p[i + k];",
        "if (i + k <= size) raw[k] = p[i + k];",
        "gather: one element too many",
    ),
    Mutation(
        "units.cuh",
        "if (i + k < size) p[i + k] = raw[k];",
        "if (i + k <= size) p[i + k] = raw[k];",
        "scatter: one element too many",
    ),
    Mutation(
        "units.cuh",
        "i + kWidth<T> <= unit.size && aligned",
        "i < unit.size && aligned",
        "V: whole vectors at the end of a tensor",
    ),
    Mutation(
        "units.cuh",
        "& 15) == 0",
        "& 7) == 0",
        "aligned: to 8 bytes",
    ),
    Mutation(
        "units.cuh",
        "slot * 2 * kVectors",
        "slot * kVectors",
        "held units overlap",
    ),
    Mutation(
        "merges.cuh",
        "chunk < chunks ? at(chunk) : 0.0",
        "chunk <= chunks ? at(chunk) : 0.0",
        "merge: one chunk too many",
    ),
    Mutation(
        "unit_sums.cuh",
        "i + k < size ? g - shift : 0",
        "g - shift",
        "target sums: the shift counted beyond the end",
    ),
    Mutation(
        "cluster_tier.cu",
        "cluster_map(chunk_sums, rank)",
        "cluster_map(chunk_sums, cluster_rank())",
        "cluster: the wrong CTA's sums",
    ),
    Mutation(
        "cluster_tier.cu",
        "first = cluster_rank() * share",
        "first = 0 * share",
        "cluster: every CTA takes the first part",
    ),
    Mutation(
        "kernels.h",
        "return units * kAllColumns * static_cast<int64_t>(sizeof(double));",
        "return units * kAllColumns * static_cast<int64_t>(sizeof(double)) - (units > 1 ? 8 : 0);",
        "shared memory: one sum too few",
    ),
    Mutation(
        "kernels.h",
        "return units * 2 * kUnitBytes;",
        "return units * 2 * kUnitBytes - (units > 0 ? 16 : 0);",
        "shared memory: held units a vector short",
    ),
    Mutation(
        "grid_tier.cu",
        "if (part.from < part.to) visit(part);",
        "if (part.from + 1 < part.to) visit(part);",
        "grid: parts of one chunk skipped",
    ),
    Mutation(
        "two_pass.cu",
        "kBackwards ? tasks - 1 - i : i",
        "kBackwards ? tasks - i : i",
        "passes: backwards by one too few",
    ),
    Mutation(
        "two_pass.cu",
        "static_cast<int64_t>(gridDim.x) * warps;",
        "static_cast<int64_t>(gridDim.x) * warps + 1;",
        "passes: a chunk skipped between rounds",
    ),
    # A target that is summed in the distance's own sweep.
    Mutation(
        "grid_tier.cu",
        "totals[lane()] = total;\n        }\n        __syncwarp();",
        "totals[lane()] = total;\n        }",
        "grid: no __syncwarp between totals and solve",
    ),
    Mutation(
        "unit_sums.cuh",
        "[recovery * segment.shift_stride]",
        "[0 * recovery]",
        "shift: the first recovery's for all",
    ),
    Mutation(
        "solve.cuh",
        "unshifted(totals + kColumns, size, shift)",
        "unshifted(totals + kColumns, size, 0)",
        "solve: the target's sums not shifted back",
    ),
    Mutation(
        "solve.cuh",
        "unshifted(totals + kColumns",
        "unshifted(totals",
        "solve: the difference's sums for the target's",
    ),
    Mutation(
        "solve.cuh",
        "problem.marks[recovery * problem.layers + layer] =",
        "problem.marks[layer] =",
        "solve: the first recovery's marks for all",
    ),
    Mutation(
        "block_tier.cu",
        "totals[column] = chunk[column] = 0;",
        "totals[column] = 0;",
        "packed: the first chunk is not cleared",
    ),
    Mutation(
        "block_tier.cu",
        "        chunk[column] = 0;\n",
        "",
        "packed: the next chunk is not cleared",
    ),
    Mutation(
        "merge.cu",
        "if (back) share = 0;",
        "",
        "finish: negligible layers keep their share",
    ),
    Mutation(
        "merge.cu",
        "problem.marks[row] = back;",
        "problem.marks[row] = 0;",
        "finish: V of negligible layers stays",
    ),
    Mutation(
        "merge.cu",
        "problem.marks[row] != 0 && is_negligible",
        "is_negligible",
        "finish: non-finite layers taken back",
    ),
    Mutation(
        "two_pass.cu",
        "if (parameters.marks && !parameters.marks[row]) return;",
        "",
        "V taken back of every layer",
    ),
    Mutation(
        "two_pass.cu",
        "column == kShift ? shift : sums.target",
        "sums.target",
        "passes: the shift not handed on",
    ),
    Mutation(
        "driver.cu",
        "problem.sum_target = 0;  //",
        "//",
        "driver: Σ g² unknown to the end",
    ),
    Mutation(
        "driver.cu",
        "if (plan.sum_target) {\n    run_merges",
        "if (false) {\n    run_merges",
        "driver: the passes' target sums not merged",
    ),
    # V times a factor.
    Mutation(
        "scale.cu",
        "(slope.size + kUnit<T> - 1) / kUnit<T>",
        "slope.size / kUnit<T>",
        "scale: no tail",
    ),
    Mutation(
        "scale.cu",
        "next -= units;",
        "",
        "scale: units counted anew in each tensor",
    ),
    Mutation(
        "scale.cu",
        "if (factor == 1) continue;",
        "if (factor == 1) return;",
        "scale: the CTA's other recoveries left out",
    ),
    Mutation(
        "scale.cu",
        "if (factor == 1) continue;",
        "",
        "scale: a factor of 1 writes",
    ),
    Mutation(
        "scale.cu",
        "recovery * parameters.factor_stride",
        "0 * recovery",
        "scale: the first recovery's factor for all",
    ),
    Mutation(
        "scale.cu",
        "size >= kUnit<T> && aligned(values, values)",
        "size >= kUnit<T>",
        "scale: vectors at any address",
    ),
    Mutation(
        "scale.cu",
        "+ recovery * slope.stride",
        "+ 0 * recovery",
        "scale: the first recovery each time",
    ),
]


def sources(root: Path) -> list[Path]:
    cuda = root / "csrc" / "cuda"
    kernels = [*sorted(p for p in cuda.glob("*.cu") if p.name != "device.cu"), *sorted(cuda.glob("*.cpp"))]
    return [*kernels, EMULATION / "run_tables.cpp"]


class UnnoticedError(Exception):
    pass


def first_line_of_interest(outcome: Outcome) -> str:
    """Of a failed run: the report's own summary."""
    marks = r"^(emulation: .*|seed \d+: .*|SUMMARY: .*|.*runtime error: .*|no end after .*)$"
    found = re.search(marks, outcome.output, re.MULTILINE)
    lines = [found.group(0)] if found else outcome.output.strip().splitlines()
    return re.sub(r"/\S*/", "", lines[-1])[:90] if lines else f"ended with {outcome.code}"


def notice(base: Toolchain, mutation: Mutation) -> tuple[str, str]:
    """The mode that noticed the mutation, and what it said."""
    with TemporaryDirectory() as folder:
        root = Path(folder, "repository")
        shutil.copytree(base.root / "csrc", root / "csrc")
        path = root / "csrc" / "cuda" / mutation.file
        text = path.read_text()
        if text.count(mutation.old) != 1:
            raise UnnoticedError(f"occurs {text.count(mutation.old)} times: {mutation.old!r}")
        path.write_text(text.replace(mutation.old, mutation.new))
        toolchain = Toolchain(Path(folder, "build"), root, jobs=1, emulator=base.emulator_object())
        if path.suffix not in HEADERS:  # only one file's object is another
            for (source, mode), built in base.objects.items():
                if source.name != mutation.file:
                    inside = source.is_relative_to(base.root)
                    copy = root / source.relative_to(base.root) if inside else source
                    toolchain.objects[copy, mode] = built
        for mode, (tables, *options) in MODES.items():
            if missing(mode):
                continue
            try:
                program = toolchain.program("run_tables", sources(root), mode)
            except BuildError as error:
                raise UnnoticedError(f"does not compile: {error}") from error
            outcome = execute(program, 0, tables, *options, timeout=300)
            if outcome.code:
                return mode, first_line_of_interest(outcome)
        raise UnnoticedError("passes all runs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutations at a time")
    parser.add_argument("--only", default="", help="only mutations whose description matches this")
    arguments = parser.parse_args()
    if missing("plain"):
        print(missing("plain"))
        return 2
    chosen = [m for m in MUTATIONS if re.search(arguments.only, m.what)]
    start = time.monotonic()
    unnoticed = 0
    with TemporaryDirectory() as folder:
        # A copy: the sources may be worked on meanwhile.
        original = Path(folder, "repository")
        shutil.copytree(ROOT / "csrc", original / "csrc")
        base = Toolchain(Path(folder, "build"), original, jobs=arguments.jobs)
        for mode, (_, *options) in MODES.items():
            if missing(mode):
                print(f"without {mode}: {missing(mode)}")
                continue
            outcome = execute(base.program("run_tables", sources(original), mode), 0, 40, *options)
            if outcome.code:
                print(f"the kernels fail as they are, {mode}: {first_line_of_interest(outcome)}")
                return 2

        def attempt(mutation: Mutation) -> tuple[str, str]:
            try:
                return notice(base, mutation)
            except UnnoticedError as failure:
                return "NONE", str(failure)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            for mutation, (mode, said) in zip(chosen, pool.map(attempt, chosen), strict=True):
                unnoticed += mode == "NONE"
                print(f"{mode:8} {mutation.file:16} {mutation.what:52} {said}", flush=True)
    seconds = time.monotonic() - start
    print(f"{len(chosen) - unnoticed} of {len(chosen)} mutations noticed, {seconds:.0f} s")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
