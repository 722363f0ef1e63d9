"""Cases from public reports and from files people have: right, or refused in one sentence.

One file a theme, each a table of rows and one test. A new report becomes a new row.
"""
