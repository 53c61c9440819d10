"""What makes a tree of data, whatever is made: shards, records, opening, going on, merging.

In: items by key, with the files they are made from, and a function that makes one. Out: its files below OUT,
OUT/manifest.jsonl in one format, and a summary. It knows nothing of scenes.

An item's files are written, then its record, each in one piece; an item whose record fits is done. Two
processes that make the same item write the same bytes. The process that finds all items done merges.
"""
