"""The page's appearance: bundled fonts and colors as a Gradio theme, and the CSS that a theme cannot express."""

from __future__ import annotations

from pathlib import Path

from gradio.themes import Base
from gradio.themes.utils import colors, sizes
from gradio.themes.utils.fonts import LocalFont

TRAINING, VALIDATION = "#0d9488", "#e08a1e"
CSS = Path(__file__).with_name("theme.css")


def theme() -> Base:
    """Return the theme: slate and teal, with IBM Plex, of which Gradio bundles these two weights completely."""
    base = Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_lg,
        font=(LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace"),
    )
    return base.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        block_shadow="0 1px 2px rgb(15 23 42 / 0.05)",
        block_shadow_dark="none",
        block_background_fill_dark="*neutral_900",
        block_border_color_dark="*neutral_800",
        block_title_text_color="*neutral_700",
        block_label_text_color="*neutral_600",
        input_background_fill="white",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_500",
        input_border_width="1px",
        input_padding="*spacing_md *spacing_lg",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_primary_border_color="transparent",
        button_large_text_weight="700",
        color_accent="*primary_600",
        slider_color="*primary_600",
        checkbox_label_background_fill="white",
        checkbox_label_background_fill_dark="*neutral_900",
        checkbox_background_color_selected="*primary_600",
        checkbox_label_border_color_selected="*primary_600",
    )
