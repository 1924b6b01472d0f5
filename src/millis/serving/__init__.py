"""HTTP in front of bundles: a parent that keeps workers alive, and workers that answer.

Border: knows bundles and requests; imports no torch, no transformers and no making room.

    supervisor   the parent: binds the port, starts workers, restarts one that died, stops them in peace
    worker       one process: loads, warms, serves
    execution    where a request runs: on the event loop, or on a thread that shares the weights
    app          routes; requests, problems, metrics, openapi beside it
"""
