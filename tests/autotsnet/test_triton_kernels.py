"""Triton's kernels: run by its interpreter, and compiled for GPUs that this machine need not have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
HERE = Path(__file__).parent

COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from autotsnet.layers import triton_kernels as kernels

def compiled(kernel, kind, sums=None, **constants):
    pointers = dict(x=kind, g=kind, weight=kind, out=sums or kind)
    of = lambda name: "constexpr" if name in constants else pointers.get(name, "i32")
    source = ASTSource(kernel, {name: of(name) for name in kernel.arg_names}, constants)
    assert compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]

row = dict(kernel_h=3, kernel_w=3, stride_t=1, stride_h=2, stride_w=2, padding_t=1, padding_h=1, padding_w=1)
for kind in ("*fp32", "*bf16"):
    compiled(kernels._correlate, kind, **row, kernel_t=3, back=kind == "*fp32", N=32, C=64)
    compiled(kernels._grad_weight, kind, "*fp32", **row, N=32, K=4, C=32, steps=64)
"""


def run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=HERE.parent.parent, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_tritons_interpreter():
    run("-m", "pytest", "-q", "-p", "no:xdist", str(HERE / "interpreted_triton.py"), TRITON_INTERPRET="1")


def test_compiled_for_a_gpu(tmp_path):
    run("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    run("-m", "pytest", "-q", "-p", "no:xdist", str(HERE / "interpreted_triton.py"), TRITON_INTERPRET="0")
