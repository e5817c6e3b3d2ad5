"""What a recorded value is.

finite    a number
zero      no path leads from the state to the loss
censored  a path exists, and what comes along it is lost to the format; recorded is where the format ends. The truth is
          small, but this is no strict bound: a derivative that was rounded to zero on the way may have been larger
inf, nan  no number, and kept as it came
"""

STATUSES = ("finite", "zero", "censored", "inf", "nan")
FINITE, ZERO, CENSORED, INF, NAN = range(len(STATUSES))
