"""python -m scripts.benefit --out runs/benefit

Trains the same segmenter on n scenes alone and together with data made from them, measures all of them on the
same held-out scenes, and writes benefit.json, benefit.md and a plot. Scenes are built-in ones or those of any
Cityscapes tree (--db_root). The same command goes on where it was stopped; started several times, each
process takes tasks that no other works on:

    for k in 1 2 3 4; do python -m scripts.benefit --out runs/benefit & done; wait
"""

from benefit.options import parse, parser
from benefit.report import write_report
from benefit.sharing import work_off
from benefit.tasks import open_folder, tasks_of
from support.errors import SAME_COMMAND, run_program

__all__ = ["parser"]


def tell(name: str, result: dict) -> None:
    """One line for a task that is done."""
    line = f"{name:<32}{result['seconds']:>7.0f} s"
    if "coco" in result:
        person = result["coco"]["classes"]["person"]["AP"]
        line += "".join(
            f"   {what} {100 * (value or 0):.1f}"
            for what, value in (("person AP", person), ("mean AP", result["coco"]["AP"]))
        )
    print(line, flush=True)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    out = open_folder(options)
    if not options.report:
        work_off(out, tasks_of(options), tell)
    print(write_report(options, out))
    print(f"report     {out / 'benefit.md'}")


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
