"""How networks read a scene fast: maps as integers instead of planes, and the layers around them.

In: label maps, edges and a mask as a `Canvas`, weights. Out: feature maps and gradients, equal to what a
convolution over 31 one-hot planes would give.
"""
