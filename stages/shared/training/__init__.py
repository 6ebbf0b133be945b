"""Prepared sequences in; batches on a device out, and the state that an interrupted training goes on from.

`batches` draws and moves rows, `devices` chooses where they are computed and by how many processes, `resume` keeps the
state.
"""
