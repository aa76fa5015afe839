"""What is used unless something else is asked for: by the command line, in Python and in measurements. No torch here."""

QUALITY = 50.0  # 0 (smallest) .. 100 (best)
EFFORT = 2  # 0 .. 9, see search.py
TUNES = ("psnr", "ms-ssim")  # what the search may go by, see measures.py
TUNE = TUNES[0]
MODEL, ENTROPY = "base", "global-parallel"  # weights: transforms and entropy model
TEMPORAL = "spatiotemporal"  # entropy model of the frames of a sequence that are predicted from the one before
GOP = 12  # one frame in GOP, at least, stands alone
