"""What every other package stands on and what knows nothing of scenes.

Errors a person can put right, files that are never seen half-written, processes and how many, progress, seeds
by name, checkpoints, the log of a run. In: plain values and paths. Out: files, and one-line messages.
"""
