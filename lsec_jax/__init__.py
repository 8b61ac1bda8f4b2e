"""Recommendation for live-stream commerce on JAX.

Dimension letters used in array annotations throughout the package: b batch, t time, k candidates, d width, e edges,
n nodes, h heads, x experts.
"""

__version__ = "0.1.0"
