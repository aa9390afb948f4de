"""`hindcast audit`: shows, on a project's own data, that no feature knew the future.

`replay` rebuilds the features from the world as it stood at an instant, `scramble` changes all
that was loaded after one, and `static` reads the compiled SQL. `workshop` runs dbt for the first
two, `points` says what is compared. Nothing here knows what the features are about.
"""
