"""Class folders of images: ROOT/CLASS/FILE, with or without a folder for each split above the classes."""

from __future__ import annotations

from pathlib import Path

import torch

from sapag_fast.data.conventions import SPLITS, Images, chosen_slice, existing_folder
from sapag_fast.data.own_images import read_images
from sapag_fast.data.picture_file import IMAGE_SUFFIXES, opened_image


def read_class_folders(
    path: str | Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    split: str | None = None,
    first: int = 0,
    count: int | None = None,
    classes: int | None = None,
) -> Images:
    """Read the images of a tree ROOT/CLASS/FILE, class by class and then by name.

    A label is the position of its class among all classes, sorted by name (as text: "10" comes before "2").
    No more than the slice is read.

    Parameters
    ----------
    path : str or Path
        ROOT, or the folder that holds one ROOT a split.
    input_shape : tuple of int, optional
        (1 or 3, H, W), to which images are cropped and resampled; None: the first image's, which all others
        must then have.
    split : str, optional
        Name of the split's folder (``train``, ``test``, ``val``), where there is one.
    first, count
        Which images.
    classes : int, optional
        How many classes there may be; None: any number.

    Raises
    ------
    ValueError
        Naming the folder or file, for one that is missing, empty or cannot be read, and for images of
        different shapes.
    """
    root = split_root(existing_folder(path, "data set"), split)
    names = class_names(root)
    if classes is not None and len(names) > classes:
        raise ValueError(
            f"{root}: label {len(names) - 1} ({names[-1]!r}); expected 0..{classes - 1} (classes={classes})"
        )
    listed = [(label, file) for label, name in enumerate(names) for file in _images_in(root / name)]
    chosen = listed[chosen_slice(first, count, len(listed), root)]
    files = [file for _, file in chosen]
    if input_shape is None:
        input_shape = _shape(listed[0][1])
        for file in files:
            shape = _shape(file)
            if shape != input_shape:
                raise ValueError(
                    f"image {file}: {_times(shape)}, but {listed[0][1].name} is {_times(input_shape)}; pass "
                    "input_shape= to fit them"
                )
    return read_images(files, input_shape), torch.tensor([label for label, _ in chosen])


def class_names(path: str | Path) -> list[str]:
    """The classes of a tree ROOT/CLASS/FILE, in the order of their labels.

    Raises ValueError where there is none, and for a class without images.
    """
    root = existing_folder(path, "data set")
    folders = _folders(root)
    if not folders:
        raise ValueError(f"folder {root}: holds no class folder")
    for folder in folders:
        if not _images_in(folder):
            raise ValueError(
                f"class folder {folder}: holds no image file ({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
    return [folder.name for folder in folders]


def split_root(path: Path, split: str | None) -> Path:
    """The folder that holds the class folders: `path`, or the split's folder in it.

    Raises ValueError where the split is missing, and where `split` is None and there are several.
    """
    splits = [
        folder
        for folder in _folders(path)
        if folder.name.lower() in SPLITS and not _images_in(folder) and _folders(folder)
    ]
    names = [folder.name for folder in splits]
    if split is not None:
        if split not in names:
            raise ValueError(
                f"folder {path}: split {split!r} is not there; found {', '.join(names) or 'none'}"
            )
        return path / split
    if len(splits) > 1:
        raise ValueError(f"folder {path}: holds several splits ({', '.join(names)}); pass split=")
    return splits[0] if splits else path


def is_class_tree(path: Path) -> bool:
    """Whether there are folders with images, or folders of splits."""
    return any(
        _images_in(folder) or any(_images_in(inner) for inner in _folders(folder))
        for folder in _folders(path)
    )


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _shape(file: Path) -> tuple[int, int, int]:
    """[C, H, W] by the file's header."""
    with opened_image(file) as opened:
        # Orientations 5 to 8 of EXIF swap the sides.
        turned = opened.getexif().get(0x0112, 1) >= 5
        height, width = opened.size if turned else opened.size[::-1]
        grey = opened.mode in ("1", "L", "LA") or opened.mode[0] in "IF"
        return (1 if grey else 3, height, width)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
