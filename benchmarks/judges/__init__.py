"""Judges of steered responses, shared by the benchmarks.

There are two with one interface (`ratings.Rater`): a language model that is asked (`questions`),
behind an OpenAI-compatible endpoint (`client`) or on this machine (`local`), and a proxy that needs
no other model (`proxy`). Their ratings are on one scale but are not comparable, so every table of
ratings names its judge. `refusals` asks a language model whether an answer refuses.
"""
