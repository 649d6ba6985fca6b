"""Captioned images: built-in data sets, a user's own, shards, the global order, and batches.

`build` writes a folder of shards; `ShardSource`, `Transform` and `Loader` read it.
"""
