"""Rendered road scenes in CamVid's 11 classes, with exact labels and disparity.

A pinhole camera 1.5 m above a flat ground looks along the road. Ground and building fronts are found by casting each
pixel's ray; everything else is an upright plane at one depth, painted far to near. Labels and disparity belong to the
nearest surface of each pixel; haze, blur and sensor noise touch the image only.
"""

from typing import Callable, NamedTuple, Tuple

import numpy as np
from PIL import Image, ImageFilter

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, UNLABELLED = range(12)
CAMERA_HEIGHT = 1.5  # metres
BASELINE = 0.22  # metres, of the stereo pair that the disparity belongs to
ROAD_HALF, FRONTS_AT = 4.2, 9.5  # metres from the road's middle: its edge, and the buildings
HAZE = np.array([214.0, 222.0, 228.0])

Array = np.ndarray
Shape = Callable[[Array, Array, np.random.Generator], Tuple[Array, Array]]


class Scene(NamedTuple):
    """image uint8 [H, W, 3] RGB, labels uint8 [H, W], disparity float32 [H, W] in pixels (0 at infinity)."""

    image: Array
    labels: Array
    disparity: Array


def _cloud_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> Array:
    """Smooth noise in -1..1 with features of about `cell` pixels."""
    small = rng.uniform(-1, 1, (max(2, int(height / cell)), max(2, int(width / cell)))).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


class _Canvas:
    """The picture being painted, with each pixel's label and depth in metres."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height, self.width, self.rng = height, width, rng
        self.focal = 1.1 * width
        self.middle, self.horizon = width * rng.uniform(0.44, 0.56), height * rng.uniform(0.42, 0.5)
        self.rows, self.columns = np.mgrid[0:height, 0:width] + 0.5
        self.image = np.zeros((height, width, 3))
        self.labels = np.full((height, width), SKY, np.uint8)
        self.depth = np.full((height, width), np.inf)
        # where each pixel's ray meets the ground, in metres
        self.ground_z = self.focal * CAMERA_HEIGHT / np.maximum(self.rows - self.horizon, 1e-3)
        self.ground_x = (self.columns - self.middle) * self.ground_z / self.focal

    def paint(self, where: Tuple[slice, slice], mask: Array, colour: Array, label: int, depth: Array) -> None:
        """Paints a region where its mask holds and nothing nearer is there yet."""
        mask = mask & (depth < self.depth[where])
        self.image[where][mask] = np.broadcast_to(colour, mask.shape + (3,))[mask]
        self.labels[where][mask] = label
        self.depth[where][mask] = np.broadcast_to(depth, mask.shape)[mask]

    def shadow(self, x: float, z: float, width: float) -> None:
        """Darkens the ground under an object; labels and depth stay the ground's."""
        distance = np.hypot((self.ground_x - x) / (0.62 * width), (self.ground_z - z) / (0.3 + 0.4 * width))
        dark = np.clip(1.6 - 1.6 * distance, 0, 0.6) * np.isin(self.labels, (ROAD, PAVEMENT))
        self.image *= 1 - dark[..., None]

    def upright(
        self, x: float, z: float, width: float, height: float, label: int, shape: Shape, base: float = 0
    ) -> None:
        """An object on an upright plane: middle x, depth z, size and height above ground in metres.

        `shape(p, q, rng)` takes coordinates from 0 to 1, across and up, and gives a mask and colours.
        """
        scale = self.focal / z
        left, right = self.middle + (x - width / 2) * scale, self.middle + (x + width / 2) * scale
        bottom = self.horizon + (CAMERA_HEIGHT - base) * scale
        top = bottom - height * scale
        rows = slice(max(0, int(np.floor(top))), min(self.height, int(np.ceil(bottom))))
        columns = slice(max(0, int(np.floor(left))), min(self.width, int(np.ceil(right))))
        if rows.start >= rows.stop or columns.start >= columns.stop or right - left < 1e-6:
            return
        where = rows, columns
        p = (self.columns[where] - left) / (right - left)
        q = (bottom - self.rows[where]) / (bottom - top)
        mask, colour = shape(p, q, self.rng)
        self.paint(where, mask & (p >= 0) & (p <= 1) & (q >= 0) & (q <= 1), colour, label, np.full(mask.shape, z))


def _sky(canvas: _Canvas) -> None:
    up = np.clip(1 - canvas.rows / canvas.horizon, 0, 1)[..., None]
    canvas.image[:] = (1 - up) * np.array([232, 243, 250]) + up * np.array([150, 204, 242])
    clouds = _cloud_noise(canvas.rng, canvas.height, canvas.width, canvas.width / 6)
    canvas.image += 30 * np.clip(clouds, 0, 1)[..., None]


def _ground(canvas: _Canvas) -> None:
    below = canvas.rows > canvas.horizon + 0.5
    z, x = np.where(below, canvas.ground_z, np.inf), np.where(below, canvas.ground_x, 0)
    visible = z < 300
    z = np.where(visible, z, 300)
    grain = _cloud_noise(canvas.rng, canvas.height, canvas.width, 2.5) + _cloud_noise(
        canvas.rng, canvas.height, canvas.width, 40
    )
    road = canvas.rng.uniform(66, 90) + 5 * grain
    dashes = (np.abs(x) < 0.09) & (np.mod(z, 6) < 3)
    edges = np.abs(np.abs(x) - (ROAD_HALF - 0.35)) < 0.07
    colour = np.stack([road, road + 1, road + 6], -1) + 85 * (dashes | edges)[..., None]
    everywhere = slice(None), slice(None)
    canvas.paint(everywhere, visible & (np.abs(x) < ROAD_HALF), colour, ROAD, z)
    joints = (np.mod(z, 1.5) < 0.05) | (np.mod(np.abs(x), 1.2) < 0.04)
    slabs = canvas.rng.uniform(92, 116) + 7 * grain - 16 * joints
    kerb = (np.abs(x) < ROAD_HALF + 0.25).astype(float) - 1.4 * (np.abs(x) < ROAD_HALF + 0.06)
    colour = np.stack([slabs + 3, slabs, slabs - 3], -1) + 26 * kerb[..., None]
    canvas.paint(everywhere, visible & (np.abs(x) >= ROAD_HALF), colour, PAVEMENT, z)


def _building_fronts(canvas: _Canvas) -> None:
    rng = canvas.rng
    offset = canvas.columns - canvas.middle
    for side in (-1, 1):
        z = FRONTS_AT * canvas.focal / np.maximum(side * offset, 0.5)
        height = (canvas.horizon - canvas.rows) * z / canvas.focal + CAMERA_HEIGHT
        block = np.clip(z / 11, 0, 13)
        index = block.astype(int)
        tops = rng.uniform(6, 15, 14) * (rng.uniform(0, 1, 14) > 0.18)  # some plots are empty
        hues = rng.uniform(0, 1, (14, 1)) * np.array([44, 20, 4]) + rng.uniform(62, 150, (14, 1))
        along, floor = np.mod(z, 2.75) / 2.75, np.mod(height, 3.1) / 3.1
        shop = (height > 0.5) & (height < 2.9) & (np.abs(along - 0.5) < 0.44)
        pane = np.maximum(np.abs(along - 0.5) / 0.22, np.abs(floor - 0.52) / 0.28)
        window = shop | ((pane < 1) & (height > 3.1) & (height < tops[index] - 0.6))
        frame = (height > 3.1) & (pane > 0.84) | ((height > 2.9) & (height < 3.4))
        wall = (
            hues[index] * (0.92 if side > 0 else 0.78)
            + 9 * _cloud_noise(rng, canvas.height, canvas.width, 2.5)[..., None]
        )
        glass = np.array([36, 40, 46]) + 26 * _cloud_noise(rng, canvas.height, canvas.width, 9)[..., None]
        colour = np.where(window[..., None], glass, wall) + 34 * (frame & (height < tops[index] - 0.6))[..., None]
        mask = (block < 13) & (height > 0) & (height < tops[index])
        canvas.paint((slice(None), slice(None)), mask, colour, BUILDING, z)
    # the street ends at a row of houses
    wall = rng.uniform(105, 150)
    canvas.upright(
        0,
        150,
        2 * FRONTS_AT + 4,
        rng.uniform(9, 16),
        BUILDING,
        lambda p, q, r: (q < 1, np.array([wall, wall - 4, wall - 10])),
    )


def _tree(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
    pixels_across = (p.shape[1] - 1) / max(float(np.ptp(p)), 0.01)  # of the whole tree, also where the edge cuts it
    ragged = _cloud_noise(rng, p.shape[0], p.shape[1], max(2.0, pixels_across / 9))
    twigs = _cloud_noise(rng, p.shape[0], p.shape[1], 2.5)
    crown = ((p - 0.5) / 0.41) ** 2 + ((q - 0.68) / 0.26) ** 2 < 1 + 0.4 * ragged + 0.6 * twigs
    trunk = (np.abs(p - 0.5) < 0.045) & (q < 0.5)
    light = 54 + 18 * ragged + 32 * twigs + 34 * (q - 0.6)
    colour = np.where(crown[..., None], np.stack([light * 0.94, light, light * 0.7], -1), np.array([58, 48, 40]))
    return crown | trunk, colour


def _pole(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
    return np.abs(p - 0.5) < 0.5, np.stack([70 + 40 * p] * 3, -1)


def _disc(colour: Array) -> Shape:
    def shape(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
        radius = np.hypot(p - 0.5, q - 0.5)
        return radius < 0.5, np.where((radius < 0.36)[..., None], np.array([228, 228, 224]), colour)

    return shape


def _fence(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
    bars = (np.mod(p * 24, 1) < 0.45) | (np.abs(q - 0.9) < 0.08) | (np.abs(q - 0.15) < 0.08)
    return q < 1, np.where(bars[..., None], np.array([36, 38, 38]), np.array([78, 78, 72]))


def _car(paint: Array) -> Shape:
    def shape(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
        side = np.abs(p - 0.5)
        body = (q > 0.12) & (q < 0.62) & (side < 0.5 - 0.06 * (q > 0.5))
        cabin = (q >= 0.55) & (q < 1) & (side < 0.43 - 0.28 * (q - 0.55))
        wheels = (q < 0.3) & (side > 0.27) & (side < 0.47)
        glass = (q > 0.64) & (q < 0.92) & (side < 0.36 - 0.24 * (q - 0.55))
        lights = (np.abs(q - 0.48) < 0.06) & (side > 0.36) & (side < 0.46)
        plate = (np.abs(q - 0.34) < 0.045) & (side < 0.14)
        gleam = 60 * np.exp(-(((q - 0.6) / 0.03) ** 2)) + 70 * np.exp(-(((q - 0.98) / 0.04) ** 2))
        colour = np.broadcast_to(paint, p.shape + (3,)) * (0.5 + 0.6 * q[..., None]) + gleam[..., None]
        colour = np.where((q < 0.22)[..., None] | wheels[..., None], 18.0, colour)
        colour = np.where(glass[..., None], np.array([30, 36, 42]) + 190 * np.clip(q[..., None] - 0.74, 0, 1), colour)
        colour = np.where(plate[..., None], np.array([206, 198, 150]), colour)
        return body | cabin | wheels, np.where(lights[..., None], np.array([168, 40, 36]), colour)

    return shape


def _ellipse(p: Array, q: Array, p0: float, q0: float, a: float, b: float) -> Array:
    return ((p - p0) / a) ** 2 + ((q - q0) / b) ** 2 < 1


def _person(clothes: Array) -> Shape:
    def shape(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
        side = np.abs(p - 0.5)
        head = _ellipse(p, q, 0.5, 0.93, 0.15, 0.07)
        torso = _ellipse(p, q, 0.5, 0.66, 0.33, 0.23) & (q > 0.46)
        arms = (q > 0.44) & (q < 0.8) & (np.abs(side - 0.38 + 0.12 * (q - 0.44)) < 0.085)
        legs = (q <= 0.5) & (np.abs(side - 0.1 - 0.1 * (0.5 - q)) < 0.115)
        folds = 0.75 + 0.5 * q + 0.2 * _cloud_noise(rng, p.shape[0], p.shape[1], 3)
        colour = np.where((torso | arms)[..., None], clothes, np.array([32, 34, 44])) * folds[..., None]
        skin = head & (q < 0.945)
        return head | torso | arms | legs, np.where(skin[..., None], np.array([150, 112, 94]), colour)

    return shape


def _bicyclist(clothes: Array) -> Shape:
    """Seen from behind: the rear wheel a narrow upright line, the rider's back bent over it."""

    def shape(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
        side = np.abs(p - 0.5)
        helmet = _ellipse(p, q, 0.5, 0.94, 0.13, 0.06)
        back = _ellipse(p, q, 0.5, 0.7, 0.27, 0.2)
        arms = (q > 0.56) & (q < 0.8) & (np.abs(side - 0.4 + 0.55 * (q - 0.56)) < 0.075)
        legs = (q > 0.14) & (q < 0.58) & (np.abs(side - 0.15) < 0.085) & ((p > 0.5) | (q > 0.24))
        wheel = _ellipse(p, q, 0.5, 0.2, 0.065, 0.2)
        bars = (np.abs(q - 0.57) < 0.014) & (side < 0.46)
        colour = np.where((back | arms)[..., None], clothes * (0.7 + 0.5 * q[..., None]), np.array([46, 50, 66]))
        colour = np.where((wheel | bars)[..., None], np.array([20, 20, 22]), colour)
        lamp = _ellipse(p, q, 0.5, 0.42, 0.05, 0.018)
        colour = np.where(lamp[..., None], np.array([190, 36, 30]), colour)
        return helmet | back | arms | legs | wheel | bars | lamp, colour

    return shape


def _objects(canvas: _Canvas) -> None:
    """Street furniture, vehicles and people, in order of depth."""
    rng = canvas.rng
    things = []  # (z, x, width, height, label, shape, base)

    def add(z: float, x: float, width: float, height: float, label: int, shape: Shape, base: float = 0.0) -> None:
        things.append((z, x, width, height, label, shape, base))

    def clothes() -> Array:
        return rng.uniform(24, 84) + rng.uniform(-16, 16, 3) + (rng.uniform() < 0.2) * np.array([70, 0, 0])

    for side in (-1, 1):
        for z in np.arange(rng.uniform(9, 16), 110, rng.uniform(11, 17)):
            if rng.uniform() < 0.75:
                tall = rng.uniform(5, 9.5)
                add(z, side * rng.uniform(7.4, 8.8), 0.72 * tall, tall, TREE, _tree)
        for z in np.arange(rng.uniform(9, 14), 80, rng.uniform(18, 26)):
            x = side * (ROAD_HALF + 0.7)
            add(z, x, 0.17, rng.uniform(5, 7.5), POLE, _pole)
            if rng.uniform() < 0.6:
                red = np.array([176, 34, 38]) if rng.uniform() < 0.6 else np.array([34, 62, 150])
                add(z + 3, x, 0.09, 2.5, POLE, _pole)
                add(z + 2.95, x, 0.85, 0.85, SIGN, _disc(red), base=2.1)
        if rng.uniform() < 0.7:
            for z in np.arange(rng.uniform(16, 34), rng.uniform(40, 60), 3.0):
                add(z, side * rng.uniform(8.9, 9.1), 3.2, 1.25, FENCE, _fence)
        for z in np.arange(rng.uniform(8, 20), 75, rng.uniform(7, 13)):
            if rng.uniform() < 0.55:  # parked
                add(
                    z,
                    side * (ROAD_HALF - 1.05),
                    1.85,
                    1.5,
                    CAR,
                    _car(rng.choice([40.0, 92.0, 150.0, 196.0]) + rng.uniform(-26, 26, 3)),
                )
        for _ in range(rng.integers(1, 5)):
            add(
                rng.uniform(8, 38),
                side * rng.uniform(5.1, 7.2),
                0.62,
                rng.uniform(1.6, 1.85),
                PEDESTRIAN,
                _person(clothes()),
            )
    for lane in (-1.4, 1.4):
        if rng.uniform() < 0.75:
            add(rng.uniform(11, 60), lane, 1.85, 1.5, CAR, _car(rng.uniform(45, 190) + rng.uniform(-30, 30, 3)))
    if rng.uniform() < 0.85:
        add(
            rng.uniform(8, 26),
            rng.choice([-1.0, 1.0]) * rng.uniform(2.0, 2.6),
            0.72,
            1.78,
            BICYCLIST,
            _bicyclist(clothes()),
        )
    for z, x, width, height, label, shape, base in sorted(things, key=lambda thing: -thing[0]):
        if label in (CAR, PEDESTRIAN, BICYCLIST):
            canvas.shadow(x, z, width)
        canvas.upright(x, z, width, height, label, shape, base)


def render_scene(seed: int, height: int = 360, width: int = 480) -> Scene:
    """A road scene, the same for the same seed and size.

    Args:
        seed: any integer from 0.
        height, width: of the picture, in pixels, at least 32.

    Raises:
        ValueError: a smaller picture or a negative seed.
    """
    if height < 32 or width < 32 or seed < 0:
        raise ValueError(
            f"render_scene: expected height and width of at least 32 and seed >= 0, got {height}, {width}, {seed}"
        )
    canvas = _Canvas(height, width, np.random.default_rng(seed))
    _sky(canvas)
    _ground(canvas)
    _building_fronts(canvas)
    _objects(canvas)
    return Scene(_photographed(canvas), canvas.labels, _disparity(canvas))


def _disparity(canvas: _Canvas) -> Array:
    return (canvas.focal * BASELINE / canvas.depth).astype(np.float32)


def _photographed(canvas: _Canvas) -> Array:
    """Haze with distance, the light's own colour, a lens's blur and a sensor's noise."""
    clear = np.exp(-np.where(np.isfinite(canvas.depth), canvas.depth, 0) / 160)[..., None]
    image = clear * canvas.image + (1 - clear) * HAZE
    image = image * canvas.rng.uniform(0.8, 1.02) * (1 + canvas.rng.uniform(-0.03, 0.03, 3))
    sharp = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    blurred = np.asarray(sharp.filter(ImageFilter.GaussianBlur(0.7 * canvas.width / 480)), np.float64)
    return np.clip(blurred + canvas.rng.normal(0, 3.0, blurred.shape), 0, 255).astype(np.uint8)
