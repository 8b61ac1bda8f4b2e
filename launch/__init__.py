"""Launchers: each starts `python -m lsec_jax.train` somewhere. Only the standard library is needed to run them."""
