"""Writes ``golden_minilm.npz``: what transformers' PyTorch BERT computes on 20 real paragraphs.

Needs torch and transformers, which the tests do not:

    python tests/models/golden_minilm.py FOLDER_OF_MINILM DEV_V1.1_JSON

For each paragraph it keeps a hash of the token ids, and for the embeddings' output and each
layer's 64 entries at fixed places with the largest absolute entry and the Euclidean norm of all.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

PARAGRAPHS = 20
ENTRIES = 64
FILE = Path(__file__).with_name("golden_minilm.npz")


def paragraphs(contexts: list[str]) -> list[str]:
    """Twenty different paragraphs, spread over the data set."""
    distinct = list(dict.fromkeys(contexts))
    return distinct[:: len(distinct) // PARAGRAPHS][:PARAGRAPHS]


def places(size: int) -> np.ndarray:
    """Which entries of a flattened hidden state are kept."""
    return np.random.default_rng(0).choice(size, ENTRIES, replace=False)


def hash_ids(ids: np.ndarray) -> str:
    """SHA-256 of token ids."""
    return hashlib.sha256(np.asarray(ids, "<i4").tobytes()).hexdigest()


def main(folder: str, dev_file: str) -> None:
    """Runs PyTorch and writes the file."""
    import torch
    import transformers

    from experiments.squad.questions import read_questions

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    hashes, entries, largest, norms = [], [], [], []
    for text in paragraphs([q.context for q in read_questions(dev_file)]):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states
        arrays = [state[0].numpy() for state in states]
        hashes.append(hash_ids(inputs["input_ids"][0].numpy()))
        entries.append([array.ravel()[places(array.size)] for array in arrays])
        largest.append([np.abs(array).max() for array in arrays])
        norms.append([np.linalg.norm(array.astype(np.float64)) for array in arrays])
    np.savez_compressed(
        FILE,
        hashes=np.asarray(hashes),
        entries=np.asarray(entries, np.float32),
        largest=np.asarray(largest, np.float32),
        norms=np.asarray(norms),
        versions=np.asarray([torch.__version__, transformers.__version__]),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
