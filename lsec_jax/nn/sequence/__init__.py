"""Encoders of behaviour sequences, which stand in for each other: `encoder.Encoder` says how."""
