// Reads a text file of the zip archive that may follow the model in a TFLite file.

const END = 0x06054b50; // signatures of PKWARE's APPNOTE.TXT
const ENTRY = 0x02014b50;
const END_SIZE = 22;
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
    if (error instanceof RangeError) return null; // fields of a damaged archive point outside
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

function content(view, entry, base) {
  if (view.getUint16(entry + 10, true) !== 0) return null; // compressed
  const header = base + view.getUint32(entry + 42, true);
  const start = header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
  return decode(view, start, view.getUint32(entry + 20, true));
}

function decode(view, start, length) {
  return new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + start, length));
}
