"""The proof of zero-invariance, by abstract interpretation.

For every candidate atom at once: what is the slice of a value at unit `i`, given that the slices of
the parameters that produce unit `i` are zero, and whatever everything else may be? Wherever a
program sums over the axis (a product, a convolution, `reduce_sum`), the slice has to be exactly
zero there; then the unit adds nothing, and cutting it out leaves every result as it was. An atom
for which this fails is blocked, with the place and what was found there instead of zero.

Soundness. A state is attached to (value, axis, atom). Rules only ever claim a number where the
primitive maps numbers to that number in floating point, and a product with zero only where the
other factor is finite (see `states`). Loops are iterated from their initial state downwards until
nothing changes, so the result holds on every iteration.
"""
