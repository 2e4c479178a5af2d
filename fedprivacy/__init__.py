"""Prices privacy in federated learning on medical data."""

__version__ = "0.1.0"
