"""The programs beside `main.py`: flags in, files and a few printed lines out; repainting is in `synth/`."""

import os

from support.threads import thread_settings

os.environ.update(thread_settings(os.environ))  # before any of them imports torch
