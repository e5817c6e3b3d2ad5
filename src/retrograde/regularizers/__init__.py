"""Remedies that are trained with: what is added to the loss of a step, so that gradients neither vanish nor explode.

``core.contracts.Regularizer`` is the contract. Each differentiates a gradient once more, in the precision of the
model's parameters; it writes no ``.grad``, draws from no global generator and leaves the model's mode as it is.
"""
