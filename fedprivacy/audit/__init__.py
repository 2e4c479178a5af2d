"""What still leaks: lower bounds, membership and reconstruction; no Flower, Hydra or MLflow."""
