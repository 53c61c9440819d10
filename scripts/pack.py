"""python -m scripts.pack --checkpoint runs/quickstart --out person.safetensors

Packs a trained model into one small file that takes the place of a checkpoint wherever one is sampled from:
the networks that samples need, in float16, and the options. scripts/make_weights.sh makes weights/ with it.
"""

from pathlib import Path

from model import SAMPLING_NETWORKS
from support.checkpoints import PACKED, find_checkpoint, load_checkpoint, save_packed
from support.errors import InputError, Parser, run_program


def parser() -> Parser:
    parser = Parser("python -m scripts.pack", "Pack a trained model into one small file.")
    parser.add_argument(
        "--checkpoint", required=True, help="run folder (its newest checkpoint) or state-*.pt"
    )
    parser.add_argument("--out", required=True, type=Path, help=f"file to write, NAME{PACKED}")
    parser.add_argument("--overwrite", action="store_true", help="replace it if it is there")
    return parser


def main(arguments: list[str] | None = None) -> None:
    flags = parser().parse_args(arguments)
    if flags.out.suffix != PACKED:
        raise InputError(f"--out {flags.out}: must end in {PACKED}")
    if flags.out.exists() and not flags.overwrite:
        raise InputError(f"--out {flags.out}: is there already; give --overwrite to replace it")
    path = find_checkpoint(flags.checkpoint)
    if path.suffix == PACKED:
        raise InputError(f"--checkpoint {flags.checkpoint}: is packed already")
    state = load_checkpoint(path)
    if {name.split(".")[0] for name in state["networks"]}.isdisjoint(SAMPLING_NETWORKS):
        raise InputError(f"--checkpoint {flags.checkpoint}: draws no objects; take what main.py has trained")
    save_packed(flags.out, state, SAMPLING_NETWORKS)
    print(f"{path} -> {flags.out}, {flags.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_program(main)
