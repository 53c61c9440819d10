"""Pixels for a mask: back ends behind one interface, colours and seams, prompts, the painter of new objects.

In: a crop of an image, a mask, a class, a prompt, a seed. Out: an image of which only masked pixels are
meant to be used. It knows nothing of manifests and trees.
"""
