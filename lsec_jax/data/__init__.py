"""Reading, splitting and batching data. Numpy and Arrow only: nothing here imports jax."""
