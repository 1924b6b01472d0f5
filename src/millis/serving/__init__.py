"""HTTP in front of bundles: a parent that keeps workers alive, and workers that answer.

Border: knows bundles and requests; imports no torch, no transformers and no making room.

    supervisor   the parent: binds the port, starts workers, restarts one that died, stops them in peace
    worker       one process: loads, warms, serves
    directing    the parent's part of a change of models: who prepares, who follows, what new versions keep
    remembering  what is served, kept in a file for the next start
    following    a worker's part: load beside live traffic, take up, let go
    execution    where a request runs: on the event loop, or on a thread that shares the weights
    app          which routes there are; answering, about, admin, oip_routes, pages are their families
    observing    what is noted of every answer: counts, the slowest, log lines, traces
"""
