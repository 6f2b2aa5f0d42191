"""Training steps by the `adapters` library, in its own environment, since it pins another transformers.

python benchmarks/adapters_peer.py FOLDER_OF_A_BERT NAME ROWS LENGTH STEPS: trains `STEPS` steps for every line that it
reads, and answers each with a line.
"""

import sys

import adapters
import torch
import torch.nn.functional as F
from transformers import AutoModel
from transformers.utils import logging

CLASSES = 5
CONFIGS = {
    "houlsby": adapters.DoubleSeqBnConfig(),
    "pfeiffer": adapters.SeqBnConfig(),
    "parallel": adapters.ParBnConfig(reduction_factor=16),
    "compacter": adapters.CompacterConfig(reduction_factor=16),
    "compacter++": adapters.CompacterPlusPlusConfig(reduction_factor=16),
}


def main(folder: str, name: str, rows: int, length: int, steps: int) -> None:
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model = AutoModel.from_pretrained(folder)
    adapters.init(model)
    model.add_adapter("peer", config=CONFIGS[name])
    model.train_adapter("peer")
    model.set_active_adapters("peer")
    model.train()
    head = torch.nn.Linear(model.config.hidden_size, CLASSES)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([*trained, *head.parameters()], lr=1e-3)
    ids, labels = torch.randint(1000, 30000, (rows, length)), torch.randint(CLASSES, (rows,))
    mask = torch.ones_like(ids)
    print("ready", sum(p.numel() for p in trained), flush=True)
    for _ in sys.stdin:
        for _ in range(steps):
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            loss = F.cross_entropy(head(hidden.mean(1)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(number) for number in sys.argv[3:]))
