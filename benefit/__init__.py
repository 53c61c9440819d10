"""Does it help? Segmenters trained on real, inserted and repainted data, measured on held-out scenes.

`arms.py` says what is compared, `tasks.py` shares the work among processes, `report.py` sums up. The other
programs of the project are called here as a shell would call them.
"""
