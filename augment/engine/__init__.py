"""What makes a tree of data, whatever is made: shards, records, opening, going on, merging.

In: items by key, with the files they are made from, and what a program made of each. Out: OUT/manifest.jsonl
in one format, and a summary. It knows nothing of pictures.

Each process takes its share of the items and writes down what it finished; nobody waits for another. The
process after which nothing is missing merges.
"""
