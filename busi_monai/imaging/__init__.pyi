from .drawn_marks import Calipers, TextLine, draw_calipers, draw_text
from .ink import count_crosses, ink_mask, text_lines
from .marks import inpaint_marks, marks_mask
from .measurements import LesionSize, lesion_diameters, lesion_size
from .prediction import (
    DEFAULT_MALIGNANT_THRESHOLD,
    agreed_finding,
    box_with_margin,
    choose_class,
    decide,
    equalise_contrast,
    fitted_place,
    laid_on_canvas,
    median_filter,
)

__all__ = [
    "DEFAULT_MALIGNANT_THRESHOLD",
    "Calipers",
    "LesionSize",
    "TextLine",
    "agreed_finding",
    "box_with_margin",
    "choose_class",
    "count_crosses",
    "decide",
    "draw_calipers",
    "draw_text",
    "equalise_contrast",
    "fitted_place",
    "ink_mask",
    "inpaint_marks",
    "laid_on_canvas",
    "lesion_diameters",
    "lesion_size",
    "marks_mask",
    "median_filter",
    "text_lines",
]
