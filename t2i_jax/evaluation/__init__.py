"""Evaluation: an exact judge of scenes, scores with intervals and baselines, reports.

It depends on images and captions only: a model is an argument, a function from captions to images.
"""
