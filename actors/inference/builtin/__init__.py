"""The built-in model: a small chat model that knows this node; a first run needs no download.

`corpus/` holds what it knows, `train` makes the weights in `model/` from it, `evaluate` asks the
phrasings that were held out. Only `train` and `evaluate` import torch, and only when they run.
"""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
"""A Hugging Face model directory: what the id ``builtin`` in ``[[models]]`` stands for."""
