"""The programs beside `main.py`: flags in, files and a few printed lines out.

They join what the rooms below do and hold none of it themselves: built-in scenes, insertion, the stages of
the synthesis (`synth/`), measuring (`evaluate`, `heatmap`), timing (`bench`, `bench_insertion`).
"""
