"""What was seen, and where: fingerprints, latency tables, the load generator, quality, the report.

Border: measures models, bundles and URLs; judges nothing (contract does) and starts no server (searching does).
"""
