"""A decode step of a Llama- or Gemma-like base, compiled for this processor when it is first needed.

    families.py     what a transformers model computes, as tables of addresses; None for whatever else it is
    weights.py      the matrices as they lie in memory, or packed in fewer bits
    vectors.py      kinds of numbers, and vectors as wide as the processor's
    tiles.py        the innermost loops, of vectors
    addresses.py    numbers at addresses
    products.py     products of rows with matrices of every kind, made of tiles
    layers.py       norms, rotation, attention, activation
    tables.py       what a step reads of the base and of each row
    step.py         one step: a token for each row in, logits out
    compiling.py    how all that is compiled, and kept for the next start
    decoder.py      the base as the engine uses it

At one row a step reads every weight once and computes little, so that it takes as long as memory takes to deliver
them. What torch's modules add to that, some 400 calls of 10 µs for each token, is why there is a step of our own.

Tried and left: inputs in 8 bits, a scale for every 64, so that bytes are multiplied with bytes (`vpdpbusd`,
`pmaddubsw`). On an EPYC with AVX512_VNNI one row and eight rows were as fast as with int8 weights widened to float32,
and Gemma 3 270M's KL from the base rose from 0.004 to 0.056 nats a token.
"""
