"""Judges of steered responses, shared by the benchmarks.

Three kinds with one interface (`ratings.Rater`): an OpenAI-compatible endpoint (`endpoint`), a chat
model on this machine (`local`), and a proxy that needs neither (`proxy`). Their ratings are on one
scale but are not comparable, so every table of ratings names its judge.
"""
