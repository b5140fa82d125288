"""Parameter shapes of the networks whose gradients the benchmarks measure."""

Shape = tuple[int, ...]


def lenet() -> list[Shape]:
    """DLG's LeNet on 28×28 digits: 13,426 parameters."""
    return [(12, 1, 5, 5), (12,), (12, 12, 5, 5), (12,), (12, 12, 5, 5), (12,), (10, 588), (10,)]


def resnet18() -> list[Shape]:
    """ResNet-18 for ImageNet: 11,689,512 parameters."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            shapes += [(width, inside, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if inside != width:
                shapes += [(width, inside, 1, 1), (width,), (width,)]
            inside = width
    return [*shapes, (1000, 512), (1000,)]


def resnet50() -> list[Shape]:
    """ResNet-50 for ImageNet: 25,557,032 parameters."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for shape in ((width, inside, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)):
                shapes += [shape, shape[:1], shape[:1]]
            if block == 0:
                shapes += [(4 * width, inside, 1, 1), (4 * width,), (4 * width,)]
            inside = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def bert_base() -> list[Shape]:
    """BERT-base with a classifier of two classes: 109,483,778 parameters."""
    hidden = 768
    shapes: list[Shape] = [(30522, hidden), (512, hidden), (2, hidden), (hidden,), (hidden,)]
    for _ in range(12):
        shapes += [(hidden, hidden), (hidden,)] * 4 + [(hidden,), (hidden,)]
        shapes += [(4 * hidden, hidden), (4 * hidden,), (hidden, 4 * hidden), (hidden,), (hidden,), (hidden,)]
    return [*shapes, (hidden, hidden), (hidden,), (2, hidden), (2,)]


# name: shapes, recoveries (None: not batched)
SETS: dict[str, tuple[list[Shape], int | None]] = {
    "LeNet": (lenet(), None),
    "64 × LeNet": (lenet(), 64),
    "ResNet-18": (resnet18(), None),
    "BERT-base": (bert_base(), None),
}
