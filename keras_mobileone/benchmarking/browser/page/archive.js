// Reads a text file of the zip archive that may follow the model in a TFLite file.

const END = 0x06054b50; // signatures of PKWARE's APPNOTE.TXT
const ENTRY = 0x02014b50;
const END_SIZE = 22;
const STORED = 0;
const DEFLATED = 8;
const LONGEST_COMMENT = 0xffff;

/**
 * Returns the text of a stored file in the archive at the end of `bytes`.
 *
 * @returns {string | null} null if there is no archive, no such file, or if it is compressed, which
 *   MediaPipe's tools do not do.
 */
export function readMember(bytes, name) {
  try {
    return find(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), name);
  } catch (error) {
    // Fields of a damaged archive point outside, and its data can't be decompressed.
    if (error instanceof RangeError || error instanceof TypeError) return null;
    throw error;
  }
}

function find(view, name) {
  const end = findEnd(view);
  if (end === null) return null;
  const directory = end - view.getUint32(end + 12, true);
  // Some programs count from the start of the file, others from that of the archive.
  const base = directory - view.getUint32(end + 16, true);
  let place = directory;
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(place, true) !== ENTRY) return null;
    const lengths = [28, 30, 32].map((offset) => view.getUint16(place + offset, true));
    if (decode(view, place + 46, lengths[0]) === name) return content(view, place, base);
    place += 46 + lengths[0] + lengths[1] + lengths[2];
  }
  return null;
}

function findEnd(view) {
  const last = view.byteLength - END_SIZE;
  for (let place = last; place >= Math.max(0, last - LONGEST_COMMENT); place--) {
    if (view.getUint32(place, true) === END) return place;
  }
  return null;
}

async function content(view, entry, base) {
  const header = base + view.getUint32(entry + 42, true);
  const start = header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
  const length = view.getUint32(entry + 20, true);
  const method = view.getUint16(entry + 10, true);
  if (method === STORED) return decode(view, start, length);
  if (method !== DEFLATED) return null;
  const packed = new Blob([new Uint8Array(view.buffer, view.byteOffset + start, length)]);
  const unpacked = packed.stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(unpacked).text();
}

function decode(view, start, length) {
  return new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + start, length));
}
