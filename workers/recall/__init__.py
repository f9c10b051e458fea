"""Recalling: which of the things remembered bear on a query. By words for now, without a model."""
