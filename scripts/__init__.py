"""The programs beside `main.py`: flags in, files and a few printed lines out.

They join what the packages below do and hold none of it themselves: built-in scenes, insertion, the stages of
the synthesis (`synth/`), measuring (`evaluate`, `heatmap`), timing (`bench`, `bench_insertion`).
"""

import os

from support.threads import thread_settings

os.environ.update(thread_settings(os.environ))  # before any of them imports torch
