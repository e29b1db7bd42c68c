"""MLflow: everything that is written to it or read from it."""
