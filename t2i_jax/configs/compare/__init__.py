"""Configs of comparisons: the variants of a file differ in what is compared."""
