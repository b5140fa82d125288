"""Compiles CUDA sources for the host: g++, the emulation, and a sanitizer or gcov where wanted."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

EMULATION = Path(__file__).parent
ROOT = EMULATION.parents[2]
EMULATOR = [
    EMULATION / f"{name}.cpp"
    for name in ("context_switch", "scheduler", "barriers", "warps", "races", "shared_memory", "launch")
]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
# Signed zeros, NaNs and the order of summation are the kernels': no fast-math, and no contraction either, so
# that results are the same on every machine.
COMMON = ["-std=c++20", "-g1", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-omit-frame-pointer"]
MODES = {
    "plain": ["-O2"],
    # Without the checks of pointers before their use: those take two thirds of the time to compile, and
    # AddressSanitizer sees the use.
    "address": [
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize=null,object-size,vptr,pointer-overflow,nonnull-attribute,returns-nonnull-attribute",
        "-fno-sanitize-recover=all",
    ],
    "thread": ["-O1", "-fsanitize=thread"],
    "coverage": ["-O0", "--coverage"],
}
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=0:allocator_may_return_null=0",
    "TSAN_OPTIONS": "halt_on_error=1:report_bugs=1:second_deadlock_stack=0",
}
JOBS = 2


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


@cache
def missing(mode: str) -> str | None:
    """Why programs of this mode cannot be built and run here, or None."""
    found = compiler()
    if found is None:
        return "no C++ compiler"
    if os.uname().machine not in ("x86_64", "aarch64"):
        return f"the emulation has no context switch for {os.uname().machine}"
    if mode == "coverage" and shutil.which("gcov") is None:
        return "no gcov"
    with TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.cpp"), Path(folder, "probe")
        source.write_text("#include <source_location>\nint main() { return 0; }\n")
        built = subprocess.run(
            [found, *COMMON, *MODES[mode], str(source), "-o", str(program)], capture_output=True, text=True
        )
        if built.returncode:
            return f"{found} cannot build for {mode}: {built.stderr.strip().splitlines()[-1]}"
        if subprocess.run([str(program)], capture_output=True).returncode:
            return f"programs built for {mode} do not run here"
    return None


class BuildError(RuntimeError):
    pass


@dataclass
class Outcome:
    code: int
    output: str


@dataclass
class Toolchain:
    """Builds into `folder`; what is built once is not built again. `root` may be a copy of the repository."""

    folder: Path
    root: Path = ROOT
    jobs: int = JOBS
    emulator: Path | None = None  # a built emulator.o, where another toolchain has one
    objects: dict[tuple[Path, str], Path] = field(default_factory=dict)
    programs: dict[tuple[str, str], Path] = field(default_factory=dict)

    def includes(self) -> list[str]:
        return [f"-I{self.root / 'csrc'}", f"-I{self.root / 'csrc' / 'cuda'}", f"-I{EMULATION}"]

    def compile(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"{' '.join(command)}\n{done.stderr}")

    def emulator_object(self) -> Path:
        """The emulation in one object, compiled without any sanitizer: it would take the scheduler for part
        of the kernels."""
        if self.emulator is None:
            parts = [self.folder / f"{source.stem}.o" for source in EMULATOR]
            command = [compiler(), *COMMON, *WARNINGS, "-O2", "-c"]
            with ThreadPoolExecutor(self.jobs) as pool:
                done = [
                    pool.submit(self.compile, [*command, str(source), "-o", str(part)])
                    for source, part in zip(EMULATOR, parts, strict=True)
                ]
            for each in done:
                each.result()
            self.emulator = self.folder / "emulator.o"
            self.compile([compiler(), "-r", "-nostdlib", *map(str, parts), "-o", str(self.emulator)])
        return self.emulator

    def object(self, source: Path, mode: str) -> Path:
        key = (source, mode)
        if key not in self.objects:
            built = self.folder / f"{source.stem}_{source.suffix[1:]}_{mode}.o"
            flags = [*COMMON, *WARNINGS, *MODES[mode], "-DSAPAG_EMULATE", *self.includes()]
            self.compile([compiler(), *flags, "-x", "c++", "-c", str(source), "-o", str(built)])
            self.objects[key] = built
        return self.objects[key]

    def program(self, name: str, sources: list[Path], mode: str) -> Path:
        key = (name, mode)
        if key not in self.programs:
            self.folder.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(self.jobs) as pool:
                emulator = pool.submit(self.emulator_object)
                objects = list(pool.map(lambda source: self.object(source, mode), sources))
            built = self.folder / f"{name}_{mode}"
            parts = [str(o) for o in [*objects, emulator.result()]]
            self.compile([compiler(), *MODES[mode], *parts, "-o", str(built)])
            self.programs[key] = built
        return self.programs[key]


def execute(program: Path, *arguments: object, timeout: float = 120) -> Outcome:
    """Runs a program; its output and error output together. A run that takes too long has failed."""
    command = [str(program), *map(str, arguments)]
    environment = {**os.environ, **SANITIZER_OPTIONS}
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment,
            cwd=program.parent,
        )
    except subprocess.TimeoutExpired:
        return Outcome(-1, f"no end after {timeout} s")
    return Outcome(done.returncode, done.stdout)
