"""Freed memory stays in the process."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from leukoscope.training.fit.memory import keep_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        bytearray(64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults(8)
agreed = keep_freed_memory()
faults(1)
print(agreed, plain, faults(8))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_large_blocks_fault_in_once():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    agreed, plain, kept = done.stdout.split()
    assert agreed == "True"
    assert int(kept) < 0.05 * int(plain)
