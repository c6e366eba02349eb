// Asks the server: JSON there, a header and arrays back (see answers.packed).

const token = location.hash.slice(1);
const TYPES = { uint8: Uint8Array, uint16: Uint16Array };
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

export class Refused extends Error {}

async function sentence(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

// One request; asked again while the server says that it is busy.
export async function ask(path, body, busy = () => {}) {
  const given = { method: "GET", headers: { "X-Brats-Gan-Token": token } };
  if (body !== undefined) {
    given.method = "POST";
    const isBytes = body instanceof Blob;
    given.headers["Content-Type"] = isBytes ? "application/octet-stream" : "application/json";
    given.body = isBytes ? body : JSON.stringify(body);
  }
  for (let wait = 100; ; wait = Math.min(2 * wait, 2000)) {
    let response;
    try {
      response = await fetch(path, given);
    } catch {
      throw new Refused("The server does not answer. Was explore.py ended?");
    }
    if (response.ok) return response;
    if (response.status !== 503) throw new Refused(await sentence(response));
    busy();
    await pause(wait * (0.5 + Math.random()));
  }
}

export async function askJson(path) {
  return (await ask(path)).json();
}

export async function askArrays(path, body, busy) {
  const buffer = await (await ask(path, body, busy)).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const part of told.parts) {
    told[part.name] = new TYPES[part.dtype](buffer.slice(at, at + part.bytes));
    at += part.bytes;
  }
  return told;
}
