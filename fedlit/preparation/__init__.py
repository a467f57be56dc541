"""Data sets as their owners publish them, brought to the manifest layout once: `fedlit prepare NAME SOURCE OUT`.

A reader (one file for a data set or a family) says which files of SOURCE make up a case; everything else, from decoding
in parallel to sites.csv, is done here for all of them.
"""
