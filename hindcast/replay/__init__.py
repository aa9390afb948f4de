"""`hindcast replay`: a project's production loop, run over past days as if they were now.

`room` is where it works, `commands` runs the project's own commands inside one process, `ticks`
is the loop, `figures` what is shown at the end. `faults`, `supervisor` and `checks` are the worst
day. Not for what the commands do: they are the project's, by `replay:` in `hindcast.yml`.
"""
