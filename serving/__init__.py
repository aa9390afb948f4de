"""The scoring service: a trained model answering over HTTP with the features of the online store.

`python -m serving` starts it. It uses the model bundle's own feature service and schema, so a
caller gives keys and times and never names a feature. Not for training or judging a model
(`training`), and not for filling the online store (`feast materialize`).
"""
