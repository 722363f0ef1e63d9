"""`concept-das share`."""

from pathlib import Path

from concept_das.errors import InputError


def share(
    to: str,
    vector: Path | None = None,
    comparison: Path | None = None,
    license: str | None = None,
    private: bool = False,
    branch: str | None = None,
) -> None:
    """Put a vector or a comparison on the Hugging Face hub, with a card.

    Log in before, by `hf auth login` or with the environment's HF_TOKEN.

    Args:
        to: name/pirate, a repository that is made if there is none. Its card is written anew.
        vector: folder of a saved vector; what lies beside it (evaluation.csv, samples.json,
            config.yaml) is told in the card.
        comparison: folder of a comparison; its tables, figures and page are shared as a data set.
        license: identifier of a license for the card, e.g. mit.
        private: only you may read it.
        branch: to write to, made if there is none; the main one if not given.
    """
    from concept_das import exports, load_vector

    if (vector is None) == (comparison is None):
        raise InputError("give a vector or a comparison to share, and not both")
    if vector is not None:
        address = load_vector(vector).push_to_hub(
            to, run=vector.parent, license=license, private=private, revision=branch
        )
        print(f"{address}\nconcept-das steer --vector {to} --prompt ...")
        return
    assert comparison is not None
    print(
        exports.share_comparison(comparison, to, license=license, private=private, revision=branch)
    )
