/** Grey pixels as busi_monai.io.images makes them, in the planes that the graph takes. */

const [RED, GREEN, BLUE] = [0.299, 0.587, 0.114].map(Math.fround);
const SHARES = Float32Array.from({ length: 256 }, (_, value) => value / 255);

/**
 * Returns { planes, data }: of grey pixels one plane, of coloured ones three, which hold their
 * luminance by ITU-R 601-2 to 24 bits. Every step rounds as it does in Python.
 */
export function greyPlanes(rgba) {
  const count = rgba.length / 4;
  const grey = new Float64Array(count);
  let whole = true;
  for (let i = 0; i < count; i++) {
    const [red, green, blue] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (red === green && red === blue) {
      grey[i] = red;
      continue;
    }
    let sum = Math.fround(SHARES[red] * RED);
    sum = Math.fround(SHARES[green] * GREEN + sum);
    sum = Math.fround(SHARES[blue] * BLUE + sum);
    grey[i] = 255 * Math.min(sum, 1);
    whole &&= Math.abs(grey[i] - Math.round(grey[i])) < 1e-4;
  }
  if (whole) return { planes: 1, data: Uint8Array.from(grey, Math.round) };
  const data = new Uint8Array(3 * count);
  for (let i = 0; i < count; i++) {
    const digits = Math.round(grey[i] * 65536);
    data[i] = digits >> 16;
    data[count + i] = (digits >> 8) & 255;
    data[2 * count + i] = digits & 255;
  }
  return { planes: 3, data };
}
