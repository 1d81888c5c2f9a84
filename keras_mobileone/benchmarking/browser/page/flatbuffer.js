// A reader of flatbuffers by the numbers of the fields, for the schemas of TFLite.

const text = new TextDecoder();

/** A table of a flatbuffer. Fields that are not set are 0, "" or an empty list. */
export class Table {
  constructor(view, position) {
    this.view = view;
    this.position = position;
    this.fields = position - view.getInt32(position, true);
  }

  static root(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return new Table(view, view.getUint32(0, true));
  }

  #place(field) {
    const entry = 4 + 2 * field;
    if (entry >= this.view.getUint16(this.fields, true)) return 0;
    const offset = this.view.getUint16(this.fields + entry, true);
    return offset && this.position + offset;
  }

  #target(place) {
    return place + this.view.getUint32(place, true);
  }

  #vector(field, size, read) {
    const place = this.#place(field);
    if (!place) return [];
    const start = this.#target(place);
    const length = this.view.getUint32(start, true);
    // A damaged file may tell any length: more than the file has is an error of the view.
    if (length) this.view.getUint8(start + 3 + length * size);
    return Array.from({ length }, (_, index) => read(start + 4 + index * size));
  }

  byte(field) {
    const place = this.#place(field);
    return place ? this.view.getUint8(place) : 0;
  }

  number(field) {
    const place = this.#place(field);
    return place ? this.view.getUint32(place, true) : 0;
  }

  table(field) {
    const place = this.#place(field);
    return place ? new Table(this.view, this.#target(place)) : null;
  }

  tables(field) {
    return this.#vector(field, 4, (place) => new Table(this.view, this.#target(place)));
  }

  integers(field) {
    return this.#vector(field, 4, (place) => this.view.getInt32(place, true));
  }

  longs(field) {
    return this.#vector(field, 8, (place) => Number(this.view.getBigInt64(place, true)));
  }

  floats(field) {
    return this.#vector(field, 4, (place) => this.view.getFloat32(place, true));
  }

  bytes(field) {
    const place = this.#place(field);
    if (!place) return new Uint8Array();
    const start = this.#target(place);
    const length = this.view.getUint32(start, true);
    return new Uint8Array(this.view.buffer, this.view.byteOffset + start + 4, length);
  }

  text(field) {
    return text.decode(this.bytes(field));
  }
}
