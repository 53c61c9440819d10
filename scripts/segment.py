"""python -m scripts.segment --data datasets/cityscapes datasets/more --val datasets/cityscapes --out runs/seg

Trains torchvision's Mask R-CNN on Cityscapes trees and measures it: AP of COCO and of Cityscapes. torchrun
spreads it over several GPUs.
"""

from distributed import joined
from segment.options import parse, parser
from segment.training import run
from support.errors import WITH_RESUME, run_program

__all__ = ["parser"]


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    with joined() as ranks:
        run(options, ranks)


if __name__ == "__main__":
    run_program(main, WITH_RESUME)
