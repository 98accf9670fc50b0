# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Output images and the frames from which they are made."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from levelmatch.images.frame import Frame

__all__ = ["Product", "by_file", "make_products"]


@dataclass(frozen=True, eq=False)
class Product:
    """One output image.

    Parameters
    ----------
    name : str
        Name of its file, with the extension if several images of the file are matched.
    frame : `~levelmatch.images.frame.Frame`
        The image.
    lyot : `~levelmatch.images.frame.Frame` or None
        The frame of its Lyot region, if the region has its own correction.
    """

    name: str
    frame: Frame
    lyot: Frame | None = None

    @property
    def file(self) -> str:
        """Name of the output file, which the images of one file share."""
        return self.frame.file if self.frame.extension else self.name

    def opened(self) -> "Product":
        """Return the product with opened frames, see `~levelmatch.images.frame.Frame.opened`."""
        frame, lyot = self.frame.opened(), self.lyot and self.lyot.opened()
        same = frame is self.frame and lyot is self.lyot
        return self if same else replace(self, frame=frame, lyot=lyot)

    def bare(self) -> "Product":
        """Return a copy without cached positions, which is smaller to send to a worker."""
        return replace(self, frame=replace(self.frame), lyot=self.lyot and replace(self.lyot))

    @property
    def frames(self) -> list[Frame]:
        """The frames, as a list."""
        return [self.frame] if self.lyot is None else [self.frame, self.lyot]


def make_products(frames: list[Frame], *, recombine: bool) -> list[Product]:
    """Make the output images of frames.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The frames, in the order of the input.
    recombine : bool
        Whether to join Lyot parts to the images of their science parts.

    Returns
    -------
    products : list of `Product`
        The output images, in the order of the input.
    """
    if not recombine:
        return [Product(frame.name, frame) for frame in frames]
    lyot = {f.product: f for f in frames if f.part == "lyot"}
    products, done = [], set()
    for frame in frames:
        name = frame.product
        if frame.part == "lyot":
            continue
        partner = lyot.get(name)
        if partner is None:
            products.append(Product(frame.name, frame))
            continue
        done.add(name)
        products.append(
            Product(name, frame, partner) if partner.region else Product(frame.name, frame)
        )
    products += [Product(f.name, f) for name, f in lyot.items() if name not in done]
    return products


def by_file(products: Iterable[Product]) -> list[list[Product]]:
    """Group output images by output file.

    Parameters
    ----------
    products : iterable of `Product`
        The output images.

    Returns
    -------
    files : list of list of `Product`
        The images of each file.
    """
    files: dict = {}
    for k, product in enumerate(products):
        shared = product.frame.extension
        files.setdefault(product.file if shared else k, []).append(product)
    return list(files.values())
