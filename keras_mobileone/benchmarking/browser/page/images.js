// The evaluation transform of keras_mobileone/data/images.py: resize the short side, crop the center.

const PRECISION = 1 << 22; // of the weights, as in Pillow's Resample.c for images of 8 bits
const CHANNELS = 3;

/**
 * Resizes a photograph with antialiased bilinear sampling, as Pillow does, and crops its center.
 *
 * @param {{data, width, height}} image pixels RGBA, as `getImageData` returns them.
 * @param {{width, height, crop}} config how the model takes images.
 * @returns {Uint8ClampedArray} pixels RGB of the size that `config` tells.
 */
export function evaluationCrop(image, config) {
  const [wide, high] = resizedSize(image.width, image.height, config);
  const left = roundEven((wide - config.width) / 2);
  const top = roundEven((high - config.height) / 2);
  const across = axis(image.width, wide, left, config.width);
  const down = axis(image.height, high, top, config.height);
  const narrow = new Uint8ClampedArray(image.height * config.width * CHANNELS);
  resample(image.data, narrow, across, { lines: image.height, line: 4 * image.width, step: 4 });
  const result = new Uint8ClampedArray(config.height * config.width * CHANNELS);
  const row = CHANNELS * config.width;
  for (let y = 0; y < config.height; y++) {
    for (let x = 0; x < row; x++) {
      result[y * row + x] = weighted(narrow, down.first[y] * row + x, row, down.weights[y]);
    }
  }
  return result;
}

/** Returns the values that a model takes: (x − mean) / std, in the type of its input. */
export function normalized(pixels, config, dtype) {
  if (dtype === "uint8") return Uint8Array.from(pixels);
  const values = new Float32Array(pixels.length);
  // A product and a difference of float32, as in Python.
  const scale = config.std.map((std) => Math.fround(1 / std));
  const offset = config.std.map((std, channel) => Math.fround(config.mean[channel] / std));
  for (let index = 0; index < pixels.length; index++) {
    const channel = index % CHANNELS;
    values[index] = Math.fround(pixels[index] * scale[channel]) - offset[channel];
  }
  return values;
}

function resizedSize(width, height, config) {
  const upright = width * config.height < height * config.width;
  const short = roundEven((upright ? config.width : config.height) / config.crop);
  return upright
    ? [short, Math.max(Math.trunc((short * height) / width), config.height)]
    : [Math.max(Math.trunc((short * width) / height), config.width), short];
}

/** Python's `round`: ties go to the even number. */
function roundEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** For each target pixel of an axis its first source pixel, and the weights of those it is made of. */
function axis(source, resized, start, count) {
  const scale = source / resized;
  const width = Math.max(scale, 1);
  const first = new Int32Array(count);
  const weights = Array.from({ length: count }, (_, index) => {
    const center = (start + index + 0.5) * scale;
    const low = Math.max(Math.trunc(center - width + 0.5), 0);
    const high = Math.min(Math.trunc(center + width + 0.5), source);
    first[index] = low;
    const triangle = Array.from({ length: high - low }, (__, place) =>
      Math.max(0, 1 - Math.abs((place + low - center + 0.5) / width)),
    );
    const sum = triangle.reduce((total, weight) => total + weight, 0);
    return triangle.map((weight) => Math.trunc(0.5 + (weight / sum) * PRECISION));
  });
  return { first, weights };
}

function resample(source, target, { first, weights }, { lines, line, step }) {
  let place = 0;
  for (let y = 0; y < lines; y++) {
    for (const [x, parts] of weights.entries()) {
      const start = y * line + step * first[x];
      for (let channel = 0; channel < CHANNELS; channel++) {
        target[place++] = weighted(source, start + channel, step, parts);
      }
    }
  }
}

function weighted(source, start, step, weights) {
  let sum = PRECISION / 2;
  let place = start;
  for (const weight of weights) {
    sum += source[place] * weight;
    place += step;
  }
  return Math.floor(sum / PRECISION);
}
