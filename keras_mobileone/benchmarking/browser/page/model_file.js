// Reads a TFLite file: whether it can be measured, how it takes images, and the names of its classes.

import { Table } from "./flatbuffer.js";
import { readMember } from "./archive.js";

const TYPES = { 0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool" };
Object.assign(TYPES, { 7: "int16", 9: "int8" });
const SUPPORTED = ["float32", "uint8", "int32"]; // what LiteRT.js takes
const CHANNELS = 3;
const NORMALIZATION = 1; // NormalizationOptions of ProcessUnitOptions
const DEFAULT_CROP = 0.875;

/**
 * Returns what a TFLite file says of itself.
 *
 * @param {string} name name of the file, for error messages.
 * @param {Uint8Array} bytes content of the file.
 * @returns {Promise<{name, bytes, inputs, outputs, config, labels}>} `config` and `labels` are null where the
 *   file does not have them.
 * @throws {Error} if it is not a complete TFLite file of fixed inputs that LiteRT.js takes.
 */
export async function readModel(name, bytes) {
  if (new TextDecoder("latin1").decode(bytes.subarray(4, 8)) !== "TFL3") {
    throw new Error(
      `Expected a TFLite file. Received: ${name}, which lacks the identifier TFL3. ` +
        "Export the model to TFLite first.",
    );
  }
  let found;
  try {
    found = describe(bytes);
  } catch {
    throw new Error(
      `Expected a complete TFLite file. Received: ${name}, which is damaged or cut short. ` +
        "Copy or export it again.",
    );
  }
  for (const input of found.inputs) requireSupported(name, input);
  const labels = (await readMember(bytes, "labels.txt"))?.replace(/\r?\n$/, "").split(/\r?\n/);
  return { name, bytes, labels: labels ?? null, ...found };
}

function requireSupported(name, input) {
  if (input.shape.some((length) => length < 0)) {
    throw new Error(
      `Expected inputs of fixed shape. Received: ${name}, whose input "${input.name}" is ` +
        `(${input.shape.join(", ")}), where -1 is an unknown size. Convert the model with a batch ` +
        "of 1 and a fixed image size.",
    );
  }
  if (!SUPPORTED.includes(input.dtype)) {
    throw new Error(
      `Expected inputs of float32 or uint8, which LiteRT.js takes. Received: ${name}, whose ` +
        `input "${input.name}" is ${input.dtype}. Export it with --input-dtype uint8, or with ` +
        "float32 inputs, which is the default.",
    );
  }
}

function describe(bytes) {
  const model = Table.root(bytes);
  const graph = model.tables(2)[0];
  const tensors = graph.tables(0);
  const buffers = model.tables(4);
  const metadata = new Map(
    model.tables(6).map((entry) => [entry.text(0), buffers[entry.number(1)].bytes(0)]),
  );
  const inputs = graph.integers(1).map((index) => tensorInfo(tensors[index]));
  const outputs = graph.integers(2).map((index) => tensorInfo(tensors[index]));
  return { inputs, outputs, config: imageConfig(metadata, inputs) };
}

function tensorInfo(tensor) {
  const quantization = tensor.table(4);
  const signature = tensor.integers(7);
  return {
    name: tensor.text(3),
    shape: signature.length ? signature : tensor.integers(0),
    dtype: TYPES[tensor.byte(1)] ?? `type ${tensor.byte(1)}`,
    scale: quantization?.floats(2)[0] ?? null,
    zeroPoint: quantization?.longs(3)[0] ?? 0,
  };
}

/** How the file takes images: what this project stored, or the standard metadata of other tools. */
function imageConfig(metadata, inputs) {
  const [input] = inputs;
  if (inputs.length !== 1 || input.shape.length !== 4 || input.shape[3] !== CHANNELS) return null;
  const stored = metadata.get("KERAS_MOBILEONE_IMAGE_CONFIG");
  if (stored) return storedConfig(JSON.parse(new TextDecoder().decode(stored)));
  const described = metadata.get("TFLITE_METADATA");
  return described ? standardConfig(Table.root(described), input) : null;
}

function storedConfig(fields) {
  if (!fields.mean) return null;
  const [height, width] = fields.image_size;
  return { width, height, mean: fields.mean, std: fields.std, crop: fields.crop_fraction };
}

/** Fields by their numbers in `metadata_schema.fbs` of MediaPipe. */
function standardConfig(root, { shape }) {
  const tensor = root.tables(3)[0]?.tables(2)[0];
  for (const unit of tensor?.tables(4) ?? []) {
    const options = unit.byte(0) === NORMALIZATION ? unit.table(1) : null;
    const [mean, std] = [0, 1].map((field) => channels(options?.floats(field) ?? []));
    if (mean && std) return { width: shape[2], height: shape[1], mean, std, crop: DEFAULT_CROP };
  }
  return null;
}

function channels(values) {
  if (values.length === 1) return Array(CHANNELS).fill(values[0]);
  return values.length === CHANNELS ? values : null;
}
