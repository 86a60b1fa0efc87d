"""What every experiment needs: runs, data, a pool of workers, summaries, and stores that know makers.

It knows no chapter. Imports run one way::

    recipe  code  data           values, sources, data sets: they know nobody of the engine
    maker                        who makes a number, here and now
    run                          one training run: recipe, key, training
    cache                        what was made, with its maker; refuses what other code made
    piece                        arrays that are made from trained runs
    compare  timing  pool        differences, estimates, workers
    store                        results as JSON: checked, whole, traceable
    summary                      rows and reference lines of a plan; plans and studies
"""
