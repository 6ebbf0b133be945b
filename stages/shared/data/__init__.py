"""A table in; checked, split, memory-mapped sequences out.

`tables` reads CSV and Parquet in chunks, `spool` keeps what was read, `filling` fills gaps and pads, `splitting` deals
rows to the splits, `sequences` is the prepared folder itself, and `chunks` walks over it in flat memory.
"""
