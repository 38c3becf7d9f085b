"""Speed, measured: several programs write with the same weights in turns, each in a process of its own.

Times of different runs cannot be compared: machines are noisy, and other things run on them. What carries over are ratios of
times that were taken side by side. So every round lets every contestant do the same work, one after the other, and what is
reported are medians of the rounds' ratios, with their spread.
"""
