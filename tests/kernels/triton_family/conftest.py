"""These tests need a GPU, or a process that runs Triton's interpreter: test_interpreted.py starts one.

TRITON_INTERPRET has to be set before triton is first imported, and then holds for a whole process.
"""

import os

import torch

if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]
