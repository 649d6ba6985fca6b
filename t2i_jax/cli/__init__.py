"""One entry point, `t2i`, and one short file a verb; each verb calls what a notebook would."""
