"""`concept-das methods`."""


def methods() -> None:
    """List the methods: what they are, how they steer and in which directions."""
    from concept_das.methods import all_methods

    verbs = {"elicit": "elicits", "suppress": "suppresses"}
    for method in all_methods().values():
        print(f"{method.name:<20} {method.summary}")
        can = " and ".join(verbs[direction] for direction in method.directions)
        print(f"{'':<20} {can}: {method.steering}; needs {', '.join(method.columns)}")
