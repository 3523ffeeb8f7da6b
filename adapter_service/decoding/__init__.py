"""Decode steps and prompts of a Llama- or Gemma-like base, compiled for this processor when they are first needed.

    families.py          what a transformers model computes, as tables of addresses; None for whatever else it is
    weights.py           the matrices as they lie in memory, or packed in fewer bits
    vectors.py           kinds of numbers, and vectors as wide as the processor's
    tiles.py             the innermost loops, of vectors
    addresses.py         numbers at addresses
    pairs.py             products of many rows with bfloat16 matrices, where the processor multiplies pairs
    products.py          products of rows with matrices of every kind, made of tiles
    layers.py            norms, rotation, attention, activation
    prompt_attention.py  attention of many tokens of one prompt
    tables.py            what a step reads of the base and of each row
    atomics.py           what threads tell one another by
    team.py              how threads make a pass together: stages, and parts of them for whoever is free
    step.py              one pass and its stages: a token for each row in, logits out
    compiling.py         how all that is compiled, and kept for the next start
    decoder.py           the base as the engine uses it

At one row a step reads every weight once and computes little, so that it takes as long as memory takes to deliver
them. What torch's modules add to that, some 400 calls of 10 µs for each token, is why there is a step of our own.

How fast that is depends on how far ahead it is asked for weights: four kilobytes, into the second cache, is a tenth
faster than one into the first for one row on a Xeon, and a fifth for eight rows of Gemma 3 270M in float16. Two threads
read twice as much as one there: one row takes 23 ms instead of 42, and eight take 41 instead of 76, where each thread
with half of the rows and all of the weights had taken 63.

A prompt is a step of many rows that share a cache, and comes to the bits that its tokens come to one by one. But
where base and processor have pairs of bfloat16, inputs are rounded to it, as torch's modules of that type round them,
and multiplied in pairs: on an EPYC with AVX512_BF16 one thread reads 660 tokens/s of SmolLM2-135M with an adapter,
where modules read 380. On a Xeon without it, one thread reads prompts of 512 tokens about as fast as modules do (330
tokens/s and 340, of Gemma 3 270M 410 and 350), and of 16 tokens twice as fast (300 and 140).

Tried and left, each on an EPYC with AVX-512:

- inputs in 8 bits, a scale for every 64, so that bytes are multiplied with bytes (`vpdpbusd`, `pmaddubsw`): one row
  and eight rows were as fast as with int8 weights widened to float32, and Gemma 3 270M's KL from the base rose from
  0.004 to 0.056 nats a token;
- steps by pairs as well, their inputs split in two bfloat16 so that little is rounded: eight rows of bfloat16 weights
  took 40 ms instead of 60, but one row 8 % and two rows a fifth longer, and all numbers of rows have to be computed
  alike. (Since then eight rows have become a fifth to a third faster on a Xeon: inputs begin where cache lines do,
  two outputs are computed side by side, and two sums instead of four.)
"""
