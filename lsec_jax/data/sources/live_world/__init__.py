"""The live part of the synthetic world: rooms, the feed, what users do inside, friends, shares, gifts. No jax here."""
