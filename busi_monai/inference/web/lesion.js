/** Size and outline of a mask of 0 and 1. */

/** Returns { pixels, box: [x, y, width, height] }, box null for an empty mask. */
export function measure(mask, width) {
  let [pixels, left, right, top, bottom] = [0, Infinity, -1, Infinity, -1];
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    const [x, y] = [i % width, Math.floor(i / width)];
    pixels++;
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  return { pixels, box: pixels ? [left, top, right - left + 1, bottom - top + 1] : null };
}

/** Returns an SVG path along the borders of the lesion's pixels, at any magnification. */
export function borderPath(mask, width, height) {
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : mask[y * width + x]);
  const parts = [];
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x < width; x++) {
      const start = x;
      while (x < width && at(x, y) !== at(x, y - 1)) x++;
      if (x > start) parts.push(`M${start} ${y}H${x}`);
    }
  }
  for (let x = 0; x <= width; x++) {
    for (let y = 0; y < height; y++) {
      const start = y;
      while (y < height && at(x, y) !== at(x - 1, y)) y++;
      if (y > start) parts.push(`M${x} ${start}V${y}`);
    }
  }
  return parts.join("");
}
