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
HAZE = np.array([196.0, 202.0, 208.0])

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

    def paint(self, where: Tuple[slice, slice], mask: Array, colour: Array, label: int, depth: Array) -> None:
        """Paints a region where its mask holds and nothing nearer is there yet."""
        mask = mask & (depth < self.depth[where])
        self.image[where][mask] = np.broadcast_to(colour, mask.shape + (3,))[mask]
        self.labels[where][mask] = label
        self.depth[where][mask] = np.broadcast_to(depth, mask.shape)[mask]

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
    canvas.image[:] = (1 - up) * np.array([226, 229, 232]) + up * np.array([160, 186, 216])
    clouds = _cloud_noise(canvas.rng, canvas.height, canvas.width, canvas.width / 6)
    canvas.image += 22 * np.clip(clouds, 0, 1)[..., None]


def _ground(canvas: _Canvas) -> None:
    below = canvas.rows > canvas.horizon + 0.5
    z = np.where(below, canvas.focal * CAMERA_HEIGHT / np.maximum(canvas.rows - canvas.horizon, 1e-3), np.inf)
    x = np.where(below, (canvas.columns - canvas.middle) * z / canvas.focal, 0)
    visible = z < 300
    z = np.where(visible, z, 300)
    grain = _cloud_noise(canvas.rng, canvas.height, canvas.width, 2.5) + _cloud_noise(
        canvas.rng, canvas.height, canvas.width, 40
    )
    road = canvas.rng.uniform(88, 112) + 6 * grain
    dashes = (np.abs(x) < 0.09) & (np.mod(z, 6) < 3)
    edges = np.abs(np.abs(x) - (ROAD_HALF - 0.35)) < 0.07
    colour = np.stack([road, road, road + 3], -1) + 85 * (dashes | edges)[..., None]
    everywhere = slice(None), slice(None)
    canvas.paint(everywhere, visible & (np.abs(x) < ROAD_HALF), colour, ROAD, z)
    joints = (np.mod(z, 1.5) < 0.05) | (np.mod(np.abs(x), 1.2) < 0.04)
    slabs = canvas.rng.uniform(132, 152) + 8 * grain - 14 * joints
    kerb = np.abs(x) < ROAD_HALF + 0.25
    colour = np.stack([slabs + 4, slabs, slabs - 6], -1) + 22 * kerb[..., None]
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
        hues = rng.uniform(0, 1, (14, 1)) * np.array([38, 22, 8]) + rng.uniform(88, 158, (14, 1))
        along, floor = np.mod(z, 2.75) / 2.75, np.mod(height, 3.1) / 3.1
        window = (np.abs(along - 0.5) < 0.26) & (np.abs(floor - 0.52) < 0.27) & (height < tops[index] - 0.6)
        wall = (
            hues[index] * (0.92 if side > 0 else 0.78)
            + 5 * _cloud_noise(rng, canvas.height, canvas.width, 3)[..., None]
        )
        colour = np.where(window[..., None], np.array([62, 68, 76]) + 34 * rng.uniform(0, 1), wall)
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
    ragged = _cloud_noise(rng, p.shape[0], p.shape[1], max(2.0, min(p.shape) / 9))
    crown = ((p - 0.5) / 0.48) ** 2 + ((q - 0.66) / 0.34) ** 2 < 1 + 0.45 * ragged
    trunk = (np.abs(p - 0.5) < 0.045) & (q < 0.5)
    leaves = ragged + _cloud_noise(rng, p.shape[0], p.shape[1], 2.5)
    light = 52 + 22 * leaves + 34 * (q - 0.6)
    colour = np.where(
        crown[..., None], np.stack([light * 0.86, light * 1.06, light * 0.62], -1), np.array([58, 48, 40])
    )
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
    return q < 1, np.where(bars[..., None], np.array([66, 70, 68]), np.array([104, 104, 98]))


def _car(paint: Array) -> Shape:
    def shape(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
        side = np.abs(p - 0.5)
        body = (q > 0.12) & (q < 0.62) & (side < 0.5 - 0.06 * (q > 0.5))
        cabin = (q >= 0.55) & (q < 1) & (side < 0.43 - 0.28 * (q - 0.55))
        wheels = (q < 0.3) & (side > 0.27) & (side < 0.47)
        glass = (q > 0.64) & (q < 0.92) & (side < 0.36 - 0.24 * (q - 0.55))
        lights = (np.abs(q - 0.48) < 0.06) & (side > 0.36) & (side < 0.46)
        colour = np.broadcast_to(paint, p.shape + (3,)) * (0.72 + 0.38 * q[..., None])
        colour = np.where((q < 0.2)[..., None] | wheels[..., None], 26.0, colour)
        colour = np.where(glass[..., None], np.array([58, 66, 74]) + 40 * (q[..., None] - 0.6), colour)
        return body | cabin | wheels, np.where(lights[..., None], np.array([176, 52, 44]), colour)

    return shape


def _shadow(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
    return q < 0.1, np.array([48.0, 48.0, 50.0])


def _person(clothes: Array, lean: float = 0.0) -> Shape:
    def shape(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
        side = p - 0.5 - lean * (q - 0.5)
        head = (side / 0.2) ** 2 + ((q - 0.925) / 0.075) ** 2 < 1
        torso = (q > 0.46) & (q < 0.86) & (np.abs(side) < 0.32 - 0.12 * np.abs(q - 0.66))
        legs = (q <= 0.5) & (np.abs(np.abs(side) - 0.1 - 0.12 * (0.5 - q)) < 0.11)
        colour = np.where(torso[..., None], clothes, np.array([40, 42, 52]))
        return head | torso | legs, np.where(head[..., None], np.array([150, 116, 98]), colour)

    return shape


def _bicyclist(clothes: Array) -> Shape:
    rider = _person(clothes, lean=0.25)

    def shape(p: Array, q: Array, rng: np.random.Generator) -> Tuple[Array, Array]:
        body, colour = rider(np.clip((p - 0.28) / 0.44, -1, 2), np.clip((q - 0.22) / 0.78, -1, 2), rng)
        wheel = np.minimum(np.hypot((p - 0.2) * 1.05, q - 0.2), np.hypot((p - 0.8) * 1.05, q - 0.2))
        cycle = (np.abs(wheel - 0.17) < 0.035) | ((np.abs(q - 0.36) < 0.03) & (np.abs(p - 0.5) < 0.3))
        return body | cycle, np.where(cycle[..., None], 30.0, colour)

    return shape


def _objects(canvas: _Canvas) -> None:
    """Street furniture, vehicles and people, in order of depth."""
    rng = canvas.rng
    things = []  # (z, x, width, height, label, shape, base)

    def add(z: float, x: float, width: float, height: float, label: int, shape: Shape, base: float = 0.0) -> None:
        things.append((z, x, width, height, label, shape, base))

    def clothes() -> Array:
        return rng.uniform(30, 150) + rng.uniform(-22, 22, 3)

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
            1.25,
            1.75,
            BICYCLIST,
            _bicyclist(clothes()),
        )
    for z, x, width, height, label, shape, base in sorted(things, key=lambda thing: -thing[0]):
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
