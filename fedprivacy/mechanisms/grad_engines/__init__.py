"""Engines that compute the sum of clipped per-record gradients, one file each."""
