"""What is done to clips before anyone trains on them (Stable Video Diffusion, section 3.1).

plant.py       flaws with known truth, to measure the filters with
cuts.py        where one scene ends and another begins
motion.py      optical flow and a motion score
text.py        text on the picture
aesthetics.py  a quality score: a linear head on an embedding
captions.py    two annotators, their merge, and how well a caption fits its clip
duplicates.py  copies of the same clip
filter.py      thresholds: which clips stay
"""
