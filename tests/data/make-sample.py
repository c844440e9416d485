#!/usr/bin/env python3
"""Cuts flights-sample.csv.gz out of the whole flights.csv.gz: the header and every 17th row, in order.

    tests/data/make-sample.py flights.csv.gz tests/data/flights-sample.csv.gz

The same input gives the same rows; the gzip header holds no name and no time.
"""

import gzip
import sys

STEP = 17
source, target = sys.argv[1:]
with gzip.open(source, "rb") as whole:
    header, *rows = whole.read().splitlines(keepends=True)
# The first of every STEP rows: offset 0 keeps the file's first flights.
sample = header + b"".join(rows[::STEP])
with open(target, "wb") as out, gzip.GzipFile("", "wb", 9, out, mtime=0) as packed:
    packed.write(sample)
