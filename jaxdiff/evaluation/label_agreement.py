"""Does a sample show the class that was asked for?"""

import numpy as np

from jaxdiff.errors import InputError, require


def label_agreement(
    images: np.ndarray,
    labels: np.ndarray,
    train_images: np.ndarray,
    train_labels: np.ndarray,
) -> float:
    """The share of images that a support vector machine reads as their label.

    The classifier is scikit-learn's `SVC(gamma=0.001)` on pixels scaled to 0..16, the
    setting of scikit-learn's own example for its 8x8 digits. It suits small images of
    one object only.

    Args:
        images: uint8 [num, height, width, channels].
        labels: integers [num], the classes asked for.
        train_images: uint8 [size, height, width, channels], what it learns from.
        train_labels: integers [size].

    Returns:
        A share from 0 to 1.

    Raises:
        InputError: the images differ in shape.
    """
    if images.shape[1:] != train_images.shape[1:]:
        raise InputError(
            f"images and train_images must have one shape; got {images.shape[1:]} and "
            f"{train_images.shape[1:]}"
        )

    def pixels(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) * (16 / 255)

    classifier = require("sklearn.svm").SVC(gamma=0.001)
    classifier.fit(pixels(train_images), train_labels)
    return float(classifier.score(pixels(images), labels))
