"""Share of samples that an SVM assigns to the requested class."""

import numpy as np

from jaxdiff.errors import InputError, require


def label_agreement(
    images: np.ndarray,
    labels: np.ndarray,
    train_images: np.ndarray,
    train_labels: np.ndarray,
) -> float:
    """Returns the share of images that a support vector machine assigns to their label.

    The classifier is scikit-learn's `SVC(gamma=0.001)` on pixels scaled to 0..16, as in
    scikit-learn's own example for its 8x8 digits. It suits only small images of one
    object.

    Args:
        images: uint8 [num, height, width, channels].
        labels: requested classes, integers [num].
        train_images: training images, uint8 [size, height, width, channels].
        train_labels: integers [size].

    Returns:
        A share in [0, 1].

    Raises:
        InputError: the images differ in shape.
    """
    if images.shape[1:] != train_images.shape[1:]:
        raise InputError(
            "images and train_images must have the same shape, got "
            f"{images.shape[1:]} and {train_images.shape[1:]}"
        )

    def pixels(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) * (16 / 255)

    classifier = require("sklearn.svm").SVC(gamma=0.001)
    classifier.fit(pixels(train_images), train_labels)
    return float(classifier.score(pixels(images), labels))
