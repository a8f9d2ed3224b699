"""What the servicers delegate to: it decides, the engine executes.

`commit` is the one write path; `rho` builds its transactions and answers questions about history; `reads` decides how fresh
an answer is; `health` knows how every ρ is; `housekeeping` keeps history within its bounds.
"""
