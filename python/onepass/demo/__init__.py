"""The training that `onepass demo` shows: one small network, trained twice from one seed.

`data` reads the images, `model` makes the network, `train` trains both copies side by side, and `report` turns
what they recorded into a table, a picture and a JSON file.
"""
