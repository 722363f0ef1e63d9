"""Judges of steered responses, shared by the benchmarks.

Three kinds, with one interface (`ratings.Judge`): an OpenAI-compatible endpoint (`endpoint`), a
local chat model (`local`), and a proxy that needs neither (`proxy`). Their ratings are on one scale
but are not the same measurement: `ratings.one_judge` keeps them out of each other's tables.
"""
