"""A finder of white cells as a user would write it with scikit-image: the peer in the table of the finders.

Multi-level Otsu on saturation, a distance transform, watershed, and a fixed growth of the nuclei to cells. The project
does not depend on scikit-image: ``pip install scikit-image`` before ``tools/smear_fields.py --finder scikit-image``.
"""

import numpy as np
from numpy.typing import NDArray

from leukoscope.smear.finder import Instance

LEAST_NUCLEUS_UM2 = 17.0
GROWTH_UM = 1.5


class ScikitImageFinder:
    """Finds white cells by their saturation."""

    name = "scikit-image"

    def find(self, rgb: NDArray[np.uint8], microns_per_pixel: float) -> list[Instance]:
        """Return the white cells; uint8 (H, W, 3)."""
        from skimage.color import rgb2hsv
        from skimage.feature import peak_local_max
        from skimage.filters import gaussian, threshold_multiotsu
        from skimage.measure import label, regionprops
        from skimage.morphology import closing, disk, opening, remove_small_objects
        from skimage.segmentation import expand_labels, watershed

        um = microns_per_pixel
        saturation = gaussian(rgb2hsv(rgb)[..., 1], 0.2 / um)
        try:
            threshold = threshold_multiotsu(saturation, 3)[-1]
        except ValueError:  # fewer values than classes
            return []
        mask = opening(saturation > threshold, disk(max(1, round(0.6 / um))))
        mask = remove_small_objects(mask, max_size=round(LEAST_NUCLEUS_UM2 / um**2))
        mask = closing(mask, disk(max(1, round(1.2 / um))))  # the lobes of a nucleus
        depth = gaussian(_distance(mask), 0.5 / um)
        peaks = peak_local_max(depth, min_distance=max(1, round(5.0 / um)), labels=label(mask))
        markers = np.zeros(mask.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        nuclei = watershed(-depth, markers, mask=mask)
        cells = expand_labels(nuclei, GROWTH_UM / um)
        found = []
        for region in regionprops(cells):
            y0, x0, y1, x1 = region.bbox
            nucleus = nuclei[y0:y1, x0:x1] == region.label
            at_edge = y0 == 0 or x0 == 0 or y1 == rgb.shape[0] or x1 == rgb.shape[1]
            if nucleus.sum() * um**2 >= LEAST_NUCLEUS_UM2 or at_edge:
                found.append(Instance((y0, x0, y1, x1), region.image, nucleus, 1.0, at_edge))
        return found


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    distance: NDArray[np.float64] = distance_transform_edt(mask)
    return distance
