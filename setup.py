"""Builds sapag_fast._C: the CPU kernels always, the CUDA kernels wherever nvcc is found.

The CUDA sources include no torch headers, so nvcc compiles them on its own, also beside a torch without CUDA
and on machines without a GPU. SAPAG_FAST_NO_CUDA=1 leaves them out.
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import find_packages, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

CSRC = Path("csrc")


def find_nvcc() -> str | None:
    if os.environ.get("SAPAG_FAST_NO_CUDA") == "1":
        return None
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    inside = (shutil.which("nvcc", path=str(Path(home) / "bin")) for home in homes if home)
    return next((path for path in inside if path), None) or shutil.which("nvcc")


def targets(nvcc: str) -> list[str]:
    """nvcc's options for SAPAG_FAST_CUDA_ARCH, such as "80;90", else for A100, H100 and B200 as far as this
    nvcc knows them. The last one is also kept as PTX, for devices that come after it."""
    wanted = os.environ.get("SAPAG_FAST_CUDA_ARCH")
    if wanted:
        architectures = wanted.split(";")
    else:
        listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
        architectures = [a for a in ("80", "90", "100") if f"compute_{a}" in listed.split()]
    last = architectures[-1]
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    return [*code, f"-gencode=arch=compute_{last},code=compute_{last}"]


class Build(BuildExtension):
    """Compiles the .cu files first and links their objects and the static CUDA runtime in."""

    def build_extensions(self) -> None:
        sources, nvcc = sorted(CSRC.glob("cuda/*.cu")), find_nvcc()
        if sources and nvcc:
            for extension in self.extensions:
                self.add_cuda(extension, nvcc, sources)
        super().build_extensions()

    def add_cuda(self, extension: CppExtension, nvcc: str, sources: list[Path]) -> None:
        folder = Path(self.build_temp).absolute() / "cuda"
        folder.mkdir(parents=True, exist_ok=True)
        flags = ["-O3", "-std=c++17", "-Xcompiler=-fPIC", "-Xfatbin=-compress-all", *targets(nvcc)]

        def compile_one(source: Path) -> str:
            built = str(folder / f"{source.stem}.o")
            command = [nvcc, *flags, "-c", str(source), "-o", built]
            print(" ".join(command), flush=True)
            subprocess.run(command, check=True)
            return built

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            extension.extra_objects += pool.map(compile_one, sources)
        # nvcc may be a wrapper: it tells itself where its libraries are.
        plan = subprocess.run(
            [nvcc, "-dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
        )
        libraries = [line for line in plan.stderr.splitlines() if "LIBRARIES=" in line]
        extension.library_dirs += [
            word[2:].strip('"')
            for line in libraries
            for word in line.replace('"', " ").split()
            if word[:2] == "-L"
        ]
        extension.libraries += ["cudart_static", "rt", "dl", "pthread"]
        extension.define_macros.append(("SAPAG_WITH_CUDA", "1"))


setup(
    packages=[*find_packages(include=["sapag_fast", "sapag_fast.*"]), "sapag_fast.kernels"],
    package_dir={"sapag_fast.kernels": "kernels"},
    package_data={"sapag_fast": ["py.typed", "recovery/certificates.json", "audit/templates/*"]},
    ext_modules=[
        CppExtension(
            "sapag_fast._C",
            [
                str(CSRC / "bindings.cpp"),
                str(CSRC / "optimizer_bindings.cpp"),
                *(str(p) for folder in ("cpu", "cuda") for p in sorted(CSRC.glob(f"{folder}/*.cpp"))),
            ],
            depends=[str(p) for p in sorted(CSRC.rglob("*.h")) + sorted(CSRC.rglob("*.inl"))],
            extra_compile_args=["-O3", "-std=c++20", "-fopenmp", "-Wno-psabi"],
        )
    ],
    cmdclass={"build_ext": Build},
)
