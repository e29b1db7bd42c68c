"""Whether two machines compute alike, to the bit: ``python -m benchmarks.arithmetic`` prints the same on both, as far as this can tell.

    PYTHONPATH=src:. AMALGAM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.arithmetic

The libraries below PyTorch choose by the processor, its caches and the number of threads how they sum, and a training of some hundred
steps carries the last bit of a sum to other answers.
"""

import hashlib
from functools import cache

import torch
from torch.nn import functional

from amalgam.inference import device
from amalgam.provenance import configure_execution
from amalgam.reference_cnn import ReferenceCNN

STEPS, IMAGES, SIDE, CLASSES = 6, 32, 32, 5


@cache
def arithmetic() -> str:
    """A digest of the weights to which a few steps bring the reference CNN, from fixed numbers, by this process's settings."""
    numbers = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ReferenceCNN(CLASSES).to(device())
        optimizer = torch.optim.AdamW(network.parameters())
        for _ in range(STEPS):
            images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=numbers).to(device())
            labels = torch.randint(CLASSES, (IMAGES,), generator=numbers).to(device())
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    weights = (value.cpu().numpy().tobytes() for value in network.state_dict().values())
    return hashlib.sha256(b"".join(weights)).hexdigest()[:16]


if __name__ == "__main__":
    configure_execution()
    print(arithmetic())
