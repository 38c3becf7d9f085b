"""Measure speed: several programs alternate on the same weights, each in its own process.

Times from different runs are not comparable, because machines are noisy and shared; ratios of times measured side by side are.
So in every round each program does the same work, one after the other, and the results are medians of the ratios within a round.
"""
