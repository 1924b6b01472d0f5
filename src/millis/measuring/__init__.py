"""What was seen, and where: fingerprints, latency tables, the load generator, quality, the report.

Border: measures models, bundles and URLs; judges nothing (contract does) and starts no server (searching does).

    bench        load for any server: the plan is written, the generator started, its results summed up
    load         the generator, a process of its own; connection and streaming are what it reads through, plan and
                 results what goes in and comes out
    table        one inference at each length; layers, the times of a layer's parts
    quality      scores, and how sure a difference is
    report       the page; report_tables and report_parts write it, plots and axes draw, findings is what it is told
"""
