"""Draws explanations: a heat map over an image, bars for features, coloured tokens for a text."""

import io
import os
import tempfile
from typing import Any, Final

import torch
from torch import Tensor

from trainwright.api.spec.outcome import ExplanationMethod
from trainwright_worker.results.explanation import Explanation

FOR, AGAINST = "#2166ac", "#d6604d"
"""Colours of positive and negative contributions, distinguishable with red-green colour blindness."""
HEAT: Final = "#7b3294"
INK, FAINT = "#222222", "#777777"
TITLES: Final = {"saliency": "Saliency", "lime": "LIME", "shap": "SHAP"}
_BARS: Final = 12
_TOKENS: Final = 160
_WIDTH: Final = 92
"""Characters per line of text."""
_DPI: Final = 150


def draw(explanation: Explanation) -> bytes:
    """Return an explanation as a PNG."""
    # matplotlib caches its list of fonts, and warns if the home directory is not writable.
    os.environ.setdefault("MPLCONFIGDIR", tempfile.gettempdir())
    from matplotlib.figure import Figure  # noqa: PLC0415 - only explanations need it

    if explanation.image is not None:
        figure = _draw_image(Figure, explanation, explanation.image)
    elif "text" in explanation.facts:
        figure = _draw_text(Figure, explanation)
    else:
        figure = _draw_rows(Figure, explanation)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, facecolor="white")
    return content.getvalue()


def _headline(explanation: Explanation) -> str:
    facts = explanation.facts
    prediction, target = facts["prediction"], facts["target"]
    if "probabilities" not in facts:
        return f"predicted {_number(prediction)}, actual {_number(target)}"
    share = facts["probabilities"][prediction]
    verdict = "correctly" if prediction == target else f"but it is “{target}”"
    return f"predicted “{prediction}” ({share:.1%}), {verdict}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _head(figure: Any, explanation: Explanation, height: float) -> None:
    figure.text(
        0.5, 1 - 0.18 / height, _headline(explanation), ha="center", va="top", size=12, color=INK, weight="bold"
    )
    if explanation.answer != "the prediction":
        note = f"blue: evidence for “{explanation.answer}”; red: evidence against it"
    else:
        note = "blue raises the prediction, red lowers it"
    if ExplanationMethod.SALIENCY in explanation.attributions:
        saliency = "saliency: effect of a small change"
        note = saliency if len(explanation.attributions) == 1 else f"{note}; {saliency}"
    figure.text(0.5, 1 - 0.48 / height, note, ha="center", va="top", size=9, color=FAINT)


def _shares(values: Tensor) -> Tensor:
    """Return attributions relative to the largest, from -1 to 1."""
    return values / values.abs().max().clamp(min=1e-12)


def _colour_map(method: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415 - only explanations need it

    ends = ["white", HEAT] if method == ExplanationMethod.SALIENCY else [AGAINST, "white", FOR]
    return LinearSegmentedColormap.from_list(method, ends)


def _draw_image(make: Any, explanation: Explanation, image: Tensor) -> Any:
    methods = explanation.attributions
    panels = 1 + len(methods)
    height = 3.5
    figure = make(figsize=(2.6 * panels + 0.4, height))
    axes = figure.subplots(1, panels, squeeze=False)[0]
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.03, top=1 - 1.05 / height, wspace=0.06)
    _head(figure, explanation, height)
    picture = (
        image.permute(1, 2, 0).expand(-1, -1, 3)
        if len(image) in (1, 3)
        else image.mean(0)[:, :, None].expand(-1, -1, 3)
    )
    gray = picture.mean(2)
    extent = (0, gray.shape[1], gray.shape[0], 0)
    axes[0].imshow(picture.numpy(), extent=extent, interpolation="nearest")
    axes[0].set_title("the image", size=10, color=INK)
    for axis, (method, values) in zip(axes[1:], methods.items(), strict=True):
        if method == ExplanationMethod.SALIENCY:  # Clip a few extreme pixels, which would hide all others.
            values = values.clamp(max=float(values.flatten().float().quantile(0.99)))  # noqa: PLW2901 - clipped
        shares = _shares(values).numpy()
        colours = _colour_map(method)
        lowest = 0.0 if method == ExplanationMethod.SALIENCY else -1.0
        axis.imshow(gray.numpy(), cmap="gray_r" if float(gray.mean()) < 0.5 else "gray", extent=extent, alpha=0.35)  # noqa: PLR2004
        rows, columns = values.shape
        side = -(-max(gray.shape) // max(rows, columns))
        covered = extent if values.shape == gray.shape else (0, columns * side, rows * side, 0)
        axis.imshow(shares, cmap=colours, vmin=lowest, vmax=1, extent=covered, alpha=abs(shares) ** 0.7 * 0.9)
        axis.set_xlim(0, extent[1])
        axis.set_ylim(extent[2], 0)
        axis.set_title(TITLES[method], size=10, color=INK)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color("#cccccc")
    return figure


def _draw_rows(make: Any, explanation: Explanation) -> Any:
    methods = explanation.attributions
    total = torch.stack([_shares(values).abs() for values in methods.values()]).sum(0)
    order = total.argsort(descending=True)[:_BARS].flip(0)
    names = [explanation.parts[number] for number in order.tolist()]
    height = 1.25 + 0.3 * len(names)
    figure = make(figsize=(2.2 + 2.7 * len(methods), height))
    axes = figure.subplots(1, len(methods), squeeze=False, sharey=True)[0]
    margin = min(0.5, (0.35 + 0.075 * max(map(len, names))) / figure.get_figwidth())
    figure.subplots_adjust(left=margin, right=0.97, bottom=0.36 / height, top=1 - 1.0 / height, wspace=0.08)
    _head(figure, explanation, height)
    for axis, (method, values) in zip(axes, methods.items(), strict=True):
        shown = values[order].tolist()
        saliency = method == ExplanationMethod.SALIENCY
        colours = [HEAT if saliency else FOR if value > 0 else AGAINST for value in shown]
        axis.barh(range(len(names)), shown, height=0.62, color=colours)
        axis.set_yticks(range(len(names)), names)
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set_title(TITLES[method], size=10, color=INK)
        axis.tick_params(axis="y", length=0, labelsize=9, colors=INK)
        axis.tick_params(axis="x", labelsize=7, colors=FAINT, length=2)
        axis.locator_params(axis="x", nbins=4)
        axis.grid(visible=True, axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure


def _draw_text(make: Any, explanation: Explanation) -> Any:
    tokens = [part if part.strip() else "␣" for part in explanation.parts[:_TOKENS]]
    lines = _lines(tokens)
    step, gap = 0.24, 0.55
    height = 0.9 + len(explanation.attributions) * (gap + step * len(lines))
    figure = make(figsize=(9.0, height))
    _head(figure, explanation, height)
    top = height - 1.05
    for method, values in explanation.attributions.items():
        figure.text(0.03, top / height, TITLES[method], size=10, color=INK, weight="bold", va="center")
        shares, colours = _shares(values), _colour_map(method)
        for row, line in enumerate(lines):
            for number, column in line:
                share = float(shares[number])
                colour = colours(share if method == ExplanationMethod.SALIENCY else (share + 1) / 2)
                figure.text(
                    0.03 + 0.94 * column / _WIDTH,
                    (top - step * (row + 1)) / height,
                    tokens[number],
                    size=8.5,
                    family="monospace",
                    va="center",
                    color="white" if sum(colour[:3]) < 1.6 else INK,  # noqa: PLR2004 - dark
                    bbox={"boxstyle": "square,pad=0.18", "facecolor": colour, "edgecolor": "none"},
                )
        top -= gap + step * len(lines)
    return figure


def _lines(tokens: list[str]) -> list[list[tuple[int, int]]]:
    """Return the tokens of each line, as pairs of token index and start column."""
    lines: list[list[tuple[int, int]]] = [[]]
    column = 0
    for number, token in enumerate(tokens):
        if column and column + len(token) > _WIDTH:
            lines.append([])
            column = 0
        lines[-1].append((number, column))
        column += len(token) + 1
    return lines
