"""The demo's upstream: the flights of 2013 as raw records, the way an operational feed sends them.

`python -m landing` writes them under `data/raw`. Not for cleaning, joining or judging the data:
every value is the source's own text, held back until it would have been known. With data of
your own, this package is the first thing to replace.
"""
