"""Rehearsals: a job's true model and step without a GPU and without the memory that they would take.

Where to read: `rehearse` top to bottom. `fake_step` takes the step, `stand_in` makes data and a checkpoint where none are
given, `devices` holds published peaks, `hours` what they make of it, `show` the table.
"""
