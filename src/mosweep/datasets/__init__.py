"""Data sets for fine-tuning."""

from mosweep.datasets.jsonl import JSONLDataset, Sample

__all__ = ["JSONLDataset", "Sample"]
