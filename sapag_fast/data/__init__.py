"""Images and sentences to attack: small bundled sets, and readers for the formats that data sets come in.

Every source of images returns ``(images, labels)``: float32 ``[N, C, H, W]`` in [0, 1] and int64 ``[N]``.
Nothing is downloaded, no file is unpickled, and the same call always returns the same images. Data sets are
read from ``first`` on, ``count`` of them (all the others, if it is None); where the format allows it, no more
than these are read.
"""

from sapag_fast.data.arrays import read_arrays
from sapag_fast.data.bundled import SOURCES, digits, faces, photographs
from sapag_fast.data.cifar import read_cifar
from sapag_fast.data.class_folders import class_names, read_class_folders
from sapag_fast.data.conventions import Images
from sapag_fast.data.dataset import KINDS, read_dataset, recognise
from sapag_fast.data.idx import read_idx, read_mnist
from sapag_fast.data.own_images import image_files, read_images
from sapag_fast.data.sentences import Sentences, read_sentences
from sapag_fast.data.svhn import read_svhn

__all__ = [
    "KINDS",
    "SOURCES",
    "Images",
    "Sentences",
    "class_names",
    "digits",
    "faces",
    "image_files",
    "photographs",
    "read_arrays",
    "read_cifar",
    "read_class_folders",
    "read_dataset",
    "read_idx",
    "read_images",
    "read_mnist",
    "read_sentences",
    "read_svhn",
    "recognise",
]
