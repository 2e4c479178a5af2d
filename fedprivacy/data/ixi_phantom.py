"""Brain phantoms on the grid of IXI Tiny: an individual head, seen by one of three scanners.

Grey matter, white matter and the brain mask come from the MNI152 template; skull, scalp, neck,
face and eyes are drawn around it. Everything is synthetic: no phantom resembles any one person.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedprivacy.data.mni_template import TissueMaps, load_template

# Fields are float32 or float64, whichever their inputs were; the image is rounded to int16.
FloatArray = NDArray[np.floating[Any]]

# On disk the axes run towards superior, right, anterior. fastMONAI's summary of the 566 subjects
# gives (44, 55, 83) voxels of 4.13 x 3.95 x 2.18 mm in RAS order: the 181 x 217 x 181 mm MNI box.
# Which way each axis points is not documented; FLamby ignores it, and so does our loader.
DISK_SHAPE = (83, 44, 55)
SPACING_MM = (2.18, 4.13, 3.95)
BOX_CENTRE_MM = (18.0, 0.0, -18.0)

AIR, BONE, MARROW, MUSCLE, FAT, VITREOUS = 0.01, 0.06, 0.50, 0.58, 1.05, 0.22
EDGE_MM = 2.5


@dataclass(frozen=True)
class ScannerStyle:
    """How a hospital's scanner renders tissue.

    Attributes:
        gain: scanner units of white matter.
        csf: signal of cerebrospinal fluid relative to white matter.
        grey: signal of grey matter relative to white matter.
        gamma: exponent on the relative signal.
        bias_axis: array axis along which the coil sensitivity falls off (0 S, 1 R, 2 A).
        bias: log ratio between that axis' centre and its ends.
        centre_gain: log brightening of the centre of the head, as at 3 T.
        noise: standard deviation of each noise channel relative to white matter.
    """

    gain: float
    csf: float
    grey: float
    gamma: float
    bias_axis: int
    bias: float
    centre_gain: float
    noise: float


# Guys: Philips 1.5 T; HH: Philips 3 T; IOP: GE 1.5 T. The numbers are ours, chosen for clearly
# different histograms within the range of scanner units seen in the real set (about 0 to 2000).
STYLES = {
    "Guys": ScannerStyle(700.0, 0.24, 0.70, 1.00, 2, 0.15, 0.00, 0.035),
    "HH": ScannerStyle(1000.0, 0.16, 0.62, 1.10, 1, 0.10, 0.30, 0.025),
    "IOP": ScannerStyle(420.0, 0.32, 0.77, 0.90, 0, 0.30, 0.00, 0.060),
}


@dataclass(frozen=True)
class HeadModel:
    """The template with room around it.

    Attributes:
        maps: ``(4, x, y, z)`` float32: grey, white, brain, and the distance to the brain's
            surface in mm (negative inside).
        to_voxel: ``(4, 4)`` MNI millimetres to indices of ``maps``.
    """

    maps: FloatArray
    to_voxel: NDArray[np.float64]


@cache
def head_model() -> HeadModel:
    """The shipped template, padded so that scalp and neck have a distance to the brain."""
    return pad_template(load_template(), margin_mm=45.0)


def pad_template(template: TissueMaps, margin_mm: float) -> HeadModel:
    """Add a margin on every side; below, the brain stem is continued."""
    step = float(template.affine[0, 0])
    pad = int(np.ceil(margin_mm / step))
    below = [(pad, pad), (pad, pad), (pad, 0)]
    above = [(0, 0), (0, 0), (0, pad)]
    volumes = [
        np.pad(np.pad(volume, above), below, mode="edge")
        for volume in (template.grey, template.white, template.brain)
    ]
    inside = volumes[2] >= 0.5
    distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    smooth = ndimage.gaussian_filter(distance * step, sigma=1.0)
    affine = template.affine.copy()
    affine[:3, 3] -= pad * step
    to_voxel = np.asarray(np.linalg.inv(affine), dtype=np.float64)
    return HeadModel(np.stack([*volumes, smooth]).astype(np.float32), to_voxel)


def disk_affine() -> NDArray[np.float64]:
    """Voxel indices of the file to MNI millimetres (x right, y anterior, z superior)."""
    affine = np.zeros((4, 4))
    for axis, world in enumerate((2, 0, 1)):
        affine[world, axis] = SPACING_MM[axis]
        affine[world, 3] = BOX_CENTRE_MM[axis] - SPACING_MM[axis] * (DISK_SHAPE[axis] - 1) / 2
    affine[3, 3] = 1.0
    return affine


def phantom(
    style: ScannerStyle, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """One synthetic subject.

    Returns:
        ``DISK_SHAPE`` int16 image in scanner units, and ``DISK_SHAPE`` uint8 brain mask.
    """
    head = head_model()
    position = _individual_position(rng)
    voxels = (
        np.tensordot(head.to_voxel[:3, :3], position, 1) + head.to_voxel[:3, 3, None, None, None]
    )
    grey, white, brain, distance = (
        ndimage.map_coordinates(volume, voxels, order=1, mode="nearest") for volume in head.maps
    )
    inside = _brain_signal(grey, white, brain, style, rng)
    outside = _head_signal(distance, position, style, rng)
    signal = brain * inside + (1.0 - brain) * outside
    image = _acquire(signal, style, rng)
    return np.rint(np.clip(image, 0, 32767)).astype(np.int16), (brain >= 0.5).astype(np.uint8)


def smooth_field(rng: np.random.Generator, spacing_mm: float) -> FloatArray:
    """Gaussian random field of unit variance everywhere, smooth over ``spacing_mm``.

    Random numbers on a lattice, blended by cubic B-splines: separable, so it costs three small
    matrix products.
    """
    bases = [
        _spline_basis(size, step, spacing_mm)
        for size, step in zip(DISK_SHAPE, SPACING_MM, strict=True)
    ]
    field = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32)
    for basis in bases:  # each product moves the next axis to the front
        field = np.tensordot(field, basis, axes=([0], [1]))
    return field


@cache
def _spline_basis(size: int, step_mm: float, spacing_mm: float) -> FloatArray:
    """``(size, knots)`` cubic B-splines at each voxel, scaled to rows of unit 2-norm."""
    position = np.arange(size) * step_mm / spacing_mm
    knots = np.arange(-1, int(np.ceil(position[-1])) + 2)
    gap = np.abs(position[:, None] - knots[None, :])
    near = 2 / 3 - gap**2 + gap**3 / 2
    far = np.clip(2 - gap, 0, None) ** 3 / 6
    weights = np.where(gap < 1, near, far)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), dtype=np.float32)


@cache
def _grid_mm() -> NDArray[np.float64]:
    """``(3, *DISK_SHAPE)`` MNI millimetres of every voxel."""
    indices = np.indices(DISK_SHAPE).astype(np.float64)
    affine = disk_affine()
    return np.asarray(np.tensordot(affine[:3, :3], indices, 1) + affine[:3, 3, None, None, None])


def _individual_position(rng: np.random.Generator) -> NDArray[np.float64]:
    """Where in the template each voxel of this head lies, in mm.

    What an affine registration leaves over: small rotations, scales and shifts, and a warp.
    """
    angles = rng.normal(0.0, np.deg2rad(2.5), 3)
    scales = np.exp(rng.normal(0.0, 0.02, 3) + rng.normal(0.025, 0.012))
    shift = rng.normal(0.0, (1.5, 2.5, 2.5))
    matrix = _rotation(angles) @ np.diag(scales)
    centre = np.array([0.0, -18.0, 10.0])
    position = np.tensordot(matrix, _grid_mm() - centre[:, None, None, None], 1)
    position += (centre + shift)[:, None, None, None]
    for axis in range(3):
        position[axis] += 2.5 * smooth_field(rng, 40.0) + 1.2 * smooth_field(rng, 18.0)
    return np.asarray(position)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix from three small angles about x, y and z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_x @ about_y @ about_z)


def _brain_signal(
    grey: FloatArray,
    white: FloatArray,
    brain: FloatArray,
    style: ScannerStyle,
    rng: np.random.Generator,
) -> FloatArray:
    """Signal inside the brain mask; folds and ventricles are this subject's own."""
    fluid = np.clip(brain - grey - white, 0.0, None) + 0.08 * grey + 0.01
    atrophy = rng.normal(0.0, 0.4)
    fluid = fluid * np.exp(atrophy + 0.9 * smooth_field(rng, 8.0))
    grey = (grey + 0.02) * np.exp(0.6 * smooth_field(rng, 8.0))
    white = white * np.exp(0.6 * smooth_field(rng, 8.0))
    mixed = style.csf * fluid + style.grey * grey + white
    return np.asarray(mixed / (fluid + grey + white))


def _head_signal(
    distance: FloatArray,
    position: NDArray[np.float64],
    style: ScannerStyle,
    rng: np.random.Generator,
) -> FloatArray:
    """Signal outside the brain: fluid, skull with marrow, scalp, neck and face, air."""
    depth = distance + 0.8 * smooth_field(rng, 30.0)
    fluid_to = rng.uniform(0.5, 2.0)
    bone_to = fluid_to + rng.uniform(4.0, 6.5) + 1.2 * smooth_field(rng, 35.0)
    skin_to = bone_to + rng.uniform(4.0, 7.0) + 1.2 * smooth_field(rng, 35.0)
    fluid, covered, skin = (_within(limit - depth) for limit in (fluid_to, bone_to, skin_to))
    texture = smooth_field(rng, 10.0)
    marrow = _within(1.3 - np.abs(depth - (fluid_to + bone_to) / 2)) * _within(2.0 * texture)
    bone = BONE + (MARROW - BONE) * marrow
    fat_share = np.clip(0.45 + 0.45 * smooth_field(rng, 14.0), 0.0, 1.0)
    flesh = MUSCLE + (FAT - MUSCLE) * fat_share
    flesh, body = _face_and_neck(flesh, position, style)
    scalp = FAT - 0.25 * np.clip(texture, 0.0, 1.0)
    beyond = np.where(body > skin, flesh, scalp)
    present = np.maximum(body, skin)
    beyond = present * beyond + (1.0 - present) * AIR
    return np.asarray(
        fluid * style.csf + (covered - fluid) * bone + (1.0 - covered) * beyond, dtype=np.float32
    )


def _face_and_neck(
    flesh: FloatArray, position: NDArray[np.float64], style: ScannerStyle
) -> tuple[FloatArray, FloatArray]:
    """Flesh with airways, eyes and spinal cord in it, and how much of each voxel is body."""
    neck = _ellipsoid(position, (0, -40, -110), (62, 62, 90))
    face = _ellipsoid(position, (0, 30, -52), (62, 62, 62))
    body = np.maximum(neck, face)
    for centre, radii in (
        ((0, 64, -48), (12, 26, 24)),  # nasal cavity
        ((0, 16, -74), (11, 11, 26)),  # pharynx
        ((20, 62, -58), (11, 14, 14)),  # maxillary sinuses
        ((-20, 62, -58), (11, 14, 14)),
    ):
        airway = _ellipsoid(position, centre, radii)
        flesh = flesh + (AIR - flesh) * airway
    for side in (-1, 1):
        eye = _ellipsoid(position, (32 * side, 66, -32), (13, 13, 13))
        flesh = flesh + (VITREOUS - flesh) * eye
        body = np.maximum(body, eye)
    canal = _ellipsoid(position, (0, -50, -110), (12, 12, 60))
    cord = _ellipsoid(position, (0, -50, -110), (6, 6, 60))
    flesh = flesh + (style.csf - flesh) * canal
    return np.asarray(flesh + (0.9 - flesh) * cord), body


def _ellipsoid(
    position: NDArray[np.float64], centre: tuple[int, int, int], radii: tuple[int, int, int]
) -> FloatArray:
    """Share of each voxel inside an axis-parallel ellipsoid, with a soft edge."""
    squared = np.zeros(position.shape[1:])
    for axis in range(3):
        squared += ((position[axis] - centre[axis]) / radii[axis]) ** 2
    return _within(np.asarray((1.0 - np.sqrt(squared)) * min(radii), dtype=np.float32))


def _within(depth_mm: FloatArray) -> FloatArray:
    """1 well inside (positive depth), 0 well outside, linear over ``EDGE_MM``."""
    return np.asarray(np.clip(0.5 + depth_mm / EDGE_MM, 0.0, 1.0))


def _acquire(signal: FloatArray, style: ScannerStyle, rng: np.random.Generator) -> FloatArray:
    """Scanner units: contrast, coil sensitivity, gain and Rician noise."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in DISK_SHAPE), indexing="ij", sparse=True)
    strength = rng.normal(1.0, 0.2)
    log_bias = -style.bias * strength * (axes[style.bias_axis] + axes[style.bias_axis] ** 2) / 2
    radius = axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2
    log_bias = log_bias + style.centre_gain * strength * (np.exp(-2.0 * radius) - 0.5)
    log_bias = log_bias + 0.05 * smooth_field(rng, 80.0)
    gamma = style.gamma * np.exp(rng.normal(0.0, 0.04))
    clean = np.clip(signal, 0.0, None) ** gamma * np.exp(log_bias)
    real = clean + style.noise * rng.standard_normal(DISK_SHAPE)
    imaginary = style.noise * rng.standard_normal(DISK_SHAPE)
    gain = style.gain * np.exp(rng.normal(0.0, 0.1))
    return np.asarray(gain * np.hypot(real, imaginary), dtype=np.float32)
