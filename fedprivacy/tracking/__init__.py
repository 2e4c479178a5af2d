"""Copies of results in MLflow; results are files first, and the store may fail."""
