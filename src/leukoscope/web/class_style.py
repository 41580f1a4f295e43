"""The style sheet of the classes: their colors from the schema, on light and dark backgrounds and in print."""

from leukoscope.core.classes import ClassSchema

LIGHT_GROUND, DARK_GROUND = "#ffffff", "#191f27"
LIGHT_SHARE, DARK_SHARE = 0.09, 0.15
"""How much of a color its soft ground holds."""

_PARTS = ("badge", "chip", "bar", "scale", "panel__head", "reasons")


def render_class_style(classes: ClassSchema) -> str:
    """Return rules that give each decision's parts the values ``--tone`` and ``--tone-soft``."""
    light: list[str] = []
    dark: list[str] = []
    for decision in classes.decisions:
        for lines, color, ground, share in (
            (light, classes.colors(decision)[0], LIGHT_GROUND, LIGHT_SHARE),
            (dark, classes.colors(decision)[1], DARK_GROUND, DARK_SHARE),
        ):
            soft = mix(color, ground, share)
            lines.append(f"--class-{decision}:{color};--class-{decision}-soft:{soft};")
    rules = [
        f":root{{{''.join(light)}}}",
        f'@media (prefers-color-scheme:dark){{:root:not([data-theme="light"]){{{"".join(dark)}}}}}',
        f':root[data-theme="dark"]{{{"".join(dark)}}}',
        f'@media print{{:root,:root[data-theme="dark"],:root:not([data-theme="light"]){{{"".join(light)}}}}}',
    ]
    rules += [
        f"{','.join(f'.{part}--{decision}' for part in _PARTS)}"
        f"{{--tone:var(--class-{decision});--tone-soft:var(--class-{decision}-soft)}}"
        for decision in classes.decisions
    ]
    return "\n".join(rules) + "\n"


def mix(color: str, ground: str, share: float) -> str:
    """Return the hexadecimal color that holds ``share`` of ``color`` and the rest of ``ground``."""
    pairs = zip(bytes.fromhex(color[1:]), bytes.fromhex(ground[1:]), strict=True)
    return "#" + bytes(round(share * one + (1 - share) * other) for one, other in pairs).hex()
