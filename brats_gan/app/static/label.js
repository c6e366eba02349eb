// The label: integers, one a pixel. Strokes are drawn here in integers; a canvas only
// shows them and is never read back, so that no edge can be a mixture of two classes.

export class Label {
  constructor(size, data) {
    this.size = size;
    this.data = data ? Uint8Array.from(data) : new Uint8Array(size * size);
  }

  // A disc about the pixel (x, y); `width` is odd, in pixels.
  stamp(x, y, width, value) {
    const reach = (width - 1) / 2;
    const square = (width * width) / 4; // (radius)^2, the radius half the width
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const row = y + dy, column = x + dx;
        const within = row >= 0 && row < this.size && column >= 0 && column < this.size;
        if (within && dx * dx + dy * dy <= square) this.data[row * this.size + column] = value;
      }
    }
  }

  // Discs along a line, by Bresenham's algorithm.
  line(from, to, width, value) {
    let [x, y] = from;
    const dx = Math.abs(to[0] - x), dy = -Math.abs(to[1] - y);
    const sx = Math.sign(to[0] - x), sy = Math.sign(to[1] - y);
    let error = dx + dy;
    for (;;) {
      this.stamp(x, y, width, value);
      if (x === to[0] && y === to[1]) return;
      const twice = 2 * error;
      if (twice >= dy) { error += dy; x += sx; }
      if (twice <= dx) { error += dx; y += sy; }
    }
  }

  // All pixels of one value that are linked to (x, y) by their sides.
  fill(x, y, value, blocked) {
    const { size, data } = this;
    const old = data[y * size + x];
    const waiting = [y * size + x];
    if (old === value || (blocked && blocked[waiting[0]])) return;
    data[waiting[0]] = value;
    const visit = (at) => {
      if (data[at] === old && !(blocked && blocked[at])) { data[at] = value; waiting.push(at); }
    };
    while (waiting.length) {
      const at = waiting.pop();
      const column = at % size;
      if (column > 0) visit(at - 1);
      if (column < size - 1) visit(at + 1);
      if (at >= size) visit(at - size);
      if (at < size * (size - 1)) visit(at + size);
    }
  }

  equals(other) {
    return this.data.every((value, at) => value === other[at]);
  }
}

// What can be undone: labels as they were before each change.
export class History {
  constructor(most = 200) {
    this.most = most;
    this.before = [];
    this.after = [];
  }

  note(data) {
    this.before.push(Uint8Array.from(data));
    if (this.before.length > this.most) this.before.shift();
    this.after = [];
  }

  undo(data) {
    if (!this.before.length) return null;
    this.after.push(Uint8Array.from(data));
    return this.before.pop();
  }

  redo(data) {
    if (!this.after.length) return null;
    this.before.push(Uint8Array.from(data));
    return this.after.pop();
  }
}

export function toBase64(data) {
  let text = "";
  for (let start = 0; start < data.length; start += 8192) {
    text += String.fromCharCode(...data.subarray(start, start + 8192));
  }
  return btoa(text);
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
