"""Training of many sites at once: their parameters, batches and gradients as one stack.

K sites that train the same model are K rows: parameters ``(K, d)``, batches ``(K, B, ...)``. A
step of all of them is then as many calls of torch as a step of one, which is what small models on
a GPU are slow by. Sites never meet in a sum; each keeps its own random streams, so that the stack
does what training one by one does, up to the rounding of float32.
"""
