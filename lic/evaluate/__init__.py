"""Measuring: real files, metrics, rivals, tables."""
