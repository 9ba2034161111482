"""python experiments/attention_maps/draw_picture.py: draw the parachute whose attention maps are shown here."""

from math import cos, pi, sin
from pathlib import Path

from PIL import Image, ImageDraw

SIDE, FINER = 160, 8  # pixels; drawn eight times as large, so that edges come out smooth
COLORS = ("#c0392b", "#f4f1e8", "#d98a1f")
GORES = 9


def seam(gore: int) -> list[tuple[float, float]]:
    """From the top of the canopy down to its rim, in units of the picture."""
    outward = -cos(pi * gore / GORES)
    angles = [pi / 2 * i / 24 for i in range(25)]
    return [(0.5 + 0.38 * outward * sin(angle), 0.46 - 0.38 * cos(angle)) for angle in angles]


def draw() -> Image.Image:
    image = Image.new("RGB", (SIDE * FINER, SIDE * FINER))
    pen = ImageDraw.Draw(image)

    def scaled(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * image.width, y * image.height) for x, y in points]

    for y in range(image.height):
        light = y / image.height
        pen.line([(0, y), (image.width, y)], fill=(int(70 + 120 * light), int(130 + 90 * light), int(210 + 30 * light)))
    for gore in range(GORES + 1):
        if gore < GORES:
            pen.polygon(scaled(*seam(gore), *reversed(seam(gore + 1))), fill=COLORS[gore % len(COLORS)])
        pen.line(scaled(seam(gore)[-1], (0.5, 0.84)), fill="#333333", width=FINER // 2)
    pen.ellipse(scaled((0.47, 0.80), (0.53, 0.86)), fill="#2b2b2b")
    pen.rectangle(scaled((0.475, 0.85), (0.525, 0.95)), fill="#2b2b2b")
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw().save(Path(__file__).parent / "parachute.png")
