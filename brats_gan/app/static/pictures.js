// Arrays to canvases.

export const COLOURS = [
  [0, 0, 0], [220, 20, 60], [255, 215, 0], [0, 191, 255], [50, 205, 50],
  [218, 112, 214], [255, 140, 0], [127, 255, 212], [106, 90, 205], [128, 128, 0],
];

export function colourOf(value) {
  return COLOURS[value === 0 ? 0 : ((value - 1) % (COLOURS.length - 1)) + 1];
}

const spare = document.createElement("canvas"); // of the slice's own size

function put(canvas, size, pixels, smooth) {
  spare.width = spare.height = size;
  spare.getContext("2d").putImageData(new ImageData(pixels, size, size), 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(spare, 0, 0, canvas.width, canvas.height);
  return context;
}

// A slice of uint16 in grey; window and level are shares of the whole range.
export function greys(values, size, window, level) {
  const pixels = new Uint8ClampedArray(size * size * 4);
  const low = (level - window / 2) * 65535, scale = 255 / (window * 65535);
  for (let at = 0; at < size * size; at++) {
    const grey = (values[at] - low) * scale;
    pixels[4 * at] = pixels[4 * at + 1] = pixels[4 * at + 2] = grey;
    pixels[4 * at + 3] = 255;
  }
  return pixels;
}

// The structural map: lines on the brain, what is outside darker.
export function mapPixels(f, outside, size) {
  const pixels = new Uint8ClampedArray(size * size * 4);
  for (let at = 0; at < size * size; at++) {
    const [r, g, b] = f[at] ? [196, 206, 218] : outside[at] ? [8, 11, 15] : [32, 40, 50];
    pixels.set([r, g, b, 255], 4 * at);
  }
  return pixels;
}

// Lays the colours of a label over pixels.
export function tint(pixels, label, share) {
  for (let at = 0; at < label.length; at++) {
    if (!label[at]) continue;
    const colour = colourOf(label[at]);
    for (let part = 0; part < 3; part++) {
      pixels[4 * at + part] = (1 - share) * pixels[4 * at + part] + share * colour[part];
    }
  }
  return pixels;
}

export function show(canvas, size, pixels, smooth) {
  return put(canvas, size, pixels, smooth);
}

// The outline of a lesion along the sides of its pixels.
export function outline(context, label, size, colour, dashes, width) {
  const scale = context.canvas.width / size;
  const inside = (x, y) => x >= 0 && y >= 0 && x < size && y < size && label[y * size + x] > 0;
  context.save();
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.setLineDash(dashes);
  context.beginPath();
  const side = (x0, y0, x1, y1) => {
    context.moveTo(x0 * scale, y0 * scale);
    context.lineTo(x1 * scale, y1 * scale);
  };
  for (let y = 0; y <= size; y++) {
    for (let x = 0; x <= size; x++) {
      if (inside(x, y) !== inside(x, y - 1)) side(x, y, x + 1, y);
      if (inside(x, y) !== inside(x - 1, y)) side(x, y, x, y + 1);
    }
  }
  context.stroke();
  context.restore();
}
