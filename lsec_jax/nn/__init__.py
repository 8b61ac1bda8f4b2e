"""Layers that know no paper."""
