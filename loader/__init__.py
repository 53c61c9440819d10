"""From a tree to batches: maps at working size, pairs of images, the noise of a step.

Above `options`, whose sizes and class it works for. In: a tree and the options. Out: `Scene`, `Batch` and
`Noise`, integer maps and floats as tensors; one-hot planes are made on the device, not here.
"""
