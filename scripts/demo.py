"""python -m scripts.demo

Opens a local page on built-in street scenes, or on those of --db_root: click, and an object stands there.
"""

import os
import socket
from functools import partial

import torch

from demo.options import DemoOptions
from support.errors import InputError, run_program
from support.settings import checked, parser_of
from support.threads import cores

ABOUT = "A page to play with a model: click, and an object stands there."
parser = partial(parser_of, DemoOptions, "python -m scripts.demo", ABOUT)


def check_port(host: str, port: int) -> None:
    """Raises InputError if nothing can listen there, rather now than when all is loaded."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise InputError(
            f"--port {port}: can't be opened at {host} ({error.strerror}); choose another"
        ) from None


def main(arguments: list[str] | None = None) -> None:
    options = checked(DemoOptions(**vars(parser().parse_args(arguments))))
    check_port(options.host, options.port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # looked at when gradio is imported
    try:
        from demo.page import build, serve
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is missing: .venv/bin/python -m pip install -r requirements-demo.txt"
        ) from None
    from demo.studio import Studio

    torch.set_num_threads(1)  # a page's one small request at a time is no faster with more
    studio = Studio(options, cores())
    serve(build(studio), options.host, options.port, share=options.share)


if __name__ == "__main__":
    run_program(main)
