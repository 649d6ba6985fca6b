"""What a model is worth: an exact judge of scenes, scores with intervals and baselines, reports.

Knows images and captions, no model: a drawing function is handed in.
"""
