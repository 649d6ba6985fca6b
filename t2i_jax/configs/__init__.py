"""The shipped configs, one a file: `t2i train --config=configs/scenes_dit_flow.py` in any folder."""
