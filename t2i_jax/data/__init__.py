"""Captioned images: built-in sets, a user's own, shards, their one global order, and batches.

`build` writes a folder of shards; `ShardSource`, `Transform` and `Loader` read it back.
"""
