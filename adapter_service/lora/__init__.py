"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) beside frozen linear layers.

`layer.py` adds the product of the adapter in use, `adapter.py` holds one adapter's weights, and
`folder.py` reads and writes them as PEFT does.
"""
