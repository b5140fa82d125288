"""Sentences, a tokenizer, and gradient files of them, as a user of ``--text`` would have."""

from pathlib import Path

import torch
import victim_nets
from command_calls import NETS
from safetensors.torch import save_file
from torch.nn import functional as F

from sapag_fast.text import train_tokenizer

SENTENCES = ["the cat sat on a mat", "a dog ran to the cat", "the dog sat"]
LABELS = [1, 0, 1]
QUICK = ("--restarts", 1, "--steps", 60, "--candidates", 300, "--device", "cpu", "--seed", 3)


def gradient_of(model, tokens, label):
    loss = F.cross_entropy(model(torch.tensor([tokens])), torch.tensor([label]))
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


def write_victims(folder: Path, net: str = "encoder") -> None:
    """Write a tokenizer, weights, a gradient file a sentence in ``gradients``, and the sentences."""
    tokenizer = train_tokenizer(SENTENCES * 2, vocabulary=40)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "truth.txt").write_text("\n".join(SENTENCES) + "\n")
    torch.manual_seed(0)
    model = getattr(victim_nets, net)()
    save_file(model.state_dict(), folder / "w.safetensors")
    (folder / "gradients").mkdir()
    for position, (sentence, label) in enumerate(zip(SENTENCES, LABELS, strict=True)):
        gradient = gradient_of(model, tokenizer.encode(sentence).ids, label)
        save_file(gradient, folder / "gradients" / f"s{position}.safetensors", {"labels": str(label)})


def command(name: str, folder: Path, net: str = "encoder") -> list[object]:
    """Call `name` with ``--text`` on the victims that `write_victims` left there."""
    model = ("--model", f"{NETS}:{net}", "--weights", folder / "w.safetensors")
    return [name, "--text", *model, "--tokenizer", folder / "tokenizer.json", *QUICK]


def gradient_files(folder: Path, count: int) -> list[object]:
    """The options that name the first few gradient files."""
    return [o for i in range(count) for o in ("--gradient", folder / "gradients" / f"s{i}.safetensors")]
