"""What the paper prints of its networks' sizes: SwiftNet (CVPR 2019) and its supplementary. Rounded, and not ours."""

from typing import Any, Dict, Optional, Tuple

CITYSCAPES, CAMVID = (1024, 2048, 19), (720, 960, 11)  # height, width, classes; CamVid's as the supplement scales it
HALF = {"half_resolution": True}
WITH_3X3 = {"head": "3x3"}
FIRST_GENERATION = {"generation": 1, **WITH_3X3}  # published with this head

# model, options, the paper's parameters, the paper's GMAC
NETWORKS: Tuple[Tuple[str, Dict[str, Any], Optional[int], Optional[float]], ...] = (
    ("swiftnet_rn18", {}, 11_800_000, 104.0),
    ("swiftnet_rn18", HALF, 11_800_000, 26.0),
    ("swiftnet_rn34", {}, None, None),
    ("swiftnet_mnv2", {}, None, None),
    ("swiftnet_mnv2", WITH_3X3, None, 41.0),
    ("swiftnet_mnv2", {**WITH_3X3, **HALF}, None, 10.3),
    ("swiftnet_pyr_rn18", {}, None, None),
    ("swiftnet_pyr_rn18", {"levels": 2}, None, None),
    ("swiftnet_pyr_rn18", FIRST_GENERATION, None, None),
    ("swiftnet_pyr_rn18", {**FIRST_GENERATION, "levels": 2}, None, None),
    ("swiftnet_pyr_rn34", {}, None, None),
    ("swiftnet_pyr_mnv2", {}, None, None),
)
# blend: the paper's decoder parameters and GMAC. RN-18's 104.0 for 3x3 belongs to the 1x1 head, and stands with the networks
UPSAMPLING: Dict[str, Dict[str, Tuple[int, Optional[float]]]] = {
    "swiftnet_rn18": {
        "3x3": (636_000, None),
        "grouped": (252_000, 84.1),
        "separable": (250_000, 84.0),
        "inverted_residual": (405_000, 92.7),
        "1x1": (247_000, 83.8),
    },
    "swiftnet_mnv2": {
        "3x3": (567_000, 13.1),
        "grouped": (180_000, 5.9),
        "separable": (178_000, 5.8),
        "inverted_residual": (332_000, 8.6),
        "1x1": (174_000, 5.7),
    },
}
