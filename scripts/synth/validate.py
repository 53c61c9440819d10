"""python -m scripts.synth.validate datasets/synth

Checks every rule that readers of Cityscapes and COCO rely on, in any Cityscapes-shaped tree; exit status 1 if
one is broken. --rules lists them.
"""

from collections import Counter
from pathlib import Path

from augment.validate import RULES, validate_tree
from support.errors import InputError, Parser, run_program
from support.processes import Pool
from support.threads import cores


def parser() -> Parser:
    parser = Parser("python -m scripts.synth.validate", "Check a Cityscapes tree.")
    parser.add_argument("root", nargs="?", type=Path, help="folder that holds leftImg8bit/ and gtFine/")
    parser.add_argument("--verify", action="store_true", help="compare files with the manifest's digests too")
    parser.add_argument("--num_workers", type=int, default=cores(), help="processes (default: one a core)")
    parser.add_argument("--rules", action="store_true", help="list the rules, and stop")
    return parser


def main(arguments: list[str] | None = None) -> int:
    flags = parser().parse_args(arguments)
    if flags.rules:
        print("\n".join(f"{rule:<10} {text}" for rule, text in RULES.items()))
        return 0
    if flags.root is None:
        raise InputError("give the folder of a tree to check")
    checked = []
    with Pool(flags.num_workers) as pool:

        def count_and_spread(function, items):
            checked.append(len(items))
            return pool.with_bar("validate", function, items)

        findings = validate_tree(flags.root, count_and_spread, verify=flags.verify)
    for finding in findings:
        print(finding)
    broken = Counter(finding.rule for finding in findings)
    summary = ", ".join(f"{rule} {count}" for rule, count in broken.items()) or "no findings"
    print(f"{checked[-1]} frames checked: {summary}")
    return 1 if findings else 0


if __name__ == "__main__":
    run_program(main)
