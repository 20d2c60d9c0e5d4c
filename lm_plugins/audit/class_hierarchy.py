"""How much alike two classes are, by WordNet."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import MissingDependencyError, OptionError

__all__ = ["wordnet_similarity"]


def wordnet_similarity(classes: Sequence[str], corpus: Any = None) -> Tensor:
    r"""Wu-Palmer similarity of the classes of a model in WordNet's hierarchy.

    .. math::
        \frac{2 \, \text{depth}(\text{lowest common ancestor})}{\text{depth}(a) + \text{depth}(b)}

    A model that mistakes one terrier for another under removal still sees a dog; one that says "jigsaw puzzle" sees the
    paint. Pass the result as ``class_similarity=`` of `run_audit`.

    Args:
        classes: The synset of each class of the model, in its order: WordNet ids as ImageNet uses them (``"n02123045"``) or
            names (``"tabby.n.01"``).
        corpus: A WordNet corpus reader; None takes nltk's, which needs nltk and its corpus file on disk. Nothing is
            downloaded.

    Returns:
        Float64 ``(classes, classes)``, symmetric, 1 on the diagonal.

    Raises:
        MissingDependencyError: nltk or its corpus file is missing.
        OptionError: A class is no synset.

    References:
        Wu and Palmer, "Verb semantics and lexical selection", ACL 1994. The layer masking paper reports a "WordNet
        similarity" without its formula; published means of about 0.6 for mostly wrong predictions fit Wu-Palmer.
    """
    reader = _nltk_corpus() if corpus is None else corpus
    synsets = [_synset(reader, name) for name in classes]
    matrix = torch.eye(len(synsets), dtype=torch.float64)
    for i, first in enumerate(synsets):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = float(first.wup_similarity(synsets[j]) or 0.0)
    return matrix


def _nltk_corpus() -> Any:
    try:
        from nltk.corpus import wordnet
    except ImportError as error:
        raise MissingDependencyError("similarity of classes by WordNet needs nltk: pip install nltk.") from error
    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise MissingDependencyError(
            "nltk does not find its WordNet corpus; get it once with nltk.download('wordnet'), or put wordnet.zip into the "
            "folder corpora of a folder that nltk.data.path lists."
        ) from error
    return wordnet


def _synset(reader: Any, name: str) -> Any:
    try:
        if name[:1] in "nvar" and name[1:].isdigit():
            return reader.synset_from_pos_and_offset(name[0], int(name[1:]))
        return reader.synset(name)
    except Exception as error:  # nltk raises its own kinds, which need nltk to name
        raise OptionError(f"{name!r} is no synset of WordNet: expected such as 'n02123045' or 'tabby.n.01'.") from error
