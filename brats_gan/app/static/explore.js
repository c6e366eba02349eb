import { Label, History, toBase64, fromBase64 } from "./label.js";
import { colourOf, greys, mapPixels, outline, show, tint } from "./pictures.js";
import { ask, askArrays, askJson, Refused } from "./talk.js";
import { volumeView } from "./volume.js";

const by = (id) => document.getElementById(id);
const NAMES = { t1: "T1", t2: "T2", t1ce: "T1c", flair: "FLAIR" };
const nameOf = (modality) => NAMES[modality] || modality;
const STORED = "brats_gan.work";
const BLINK = 700; // milliseconds: well below three flashes a second
const MOST_BRUSH = 25;

const now = { tool: "brush", value: 2, brush: 5, window: 100, level: 50, view: "four" };
let state; // of the server: sizes, names, bounds
let label; // Label
let history = new History();
let choices; // {seed, height, directions, style}, see answers.Asked
let drawn = null; // the last answer of /api/draw
let plain = null; // the same without a lesion, where a view asks for it
let found = null; // the last answer of /api/judge
let cursor = null; // [x, y] of the brush
let stroke = null; // the last pixel of one that is under way
let pending = 0; // what is being asked or waits for it
let version = 0; // of what was chosen

// --- What is said -------------------------------------------------------------------

function say(text, kind = "good", live = "polite") {
  by("status").setAttribute("aria-live", live); // not read out after every stroke
  by("status").textContent = text;
  by("status").dataset.kind = kind;
}

function fail(error) {
  say(error instanceof Refused ? error.message : `Something went wrong: ${error.message}`, "bad");
  if (!(error instanceof Refused)) console.error(error);
}

// --- Kept over a reload -------------------------------------------------------------

function keep() {
  const work = { size: state.size, models: state.models, choices, now, label: toBase64(label.data) };
  try {
    localStorage.setItem(STORED, JSON.stringify(work));
  } catch { /* no room, or not allowed: the page works without */ }
}

// Whether the server would take what was stored: others may have written there.
function isSane({ choices: { seed, height, directions, style }, now: { tool, value, brush, window: wide, level, view } }) {
  const whole = (n, low, high) => Number.isInteger(n) && n >= low && n <= high;
  return whole(seed, 0, state.most_seed)
    && (state.heights ? whole(height, 0, state.heights - 1) : height === null)
    && directions.length === state.directions
    && directions.every((n) => n === null || (Number.isFinite(n) && Math.abs(n) <= state.farthest))
    && (style === null || whole(style, 0, state.most_seed))
    && ["brush", "eraser", "fill"].includes(tool) && ["four", "beside", "blink"].includes(view)
    && whole(value, 1, state.labels.length - 1) && whole(brush, 1, MOST_BRUSH) && brush % 2 === 1
    && whole(wide, 5, 150) && whole(level, 0, 100);
}

function kept() {
  try {
    const work = JSON.parse(localStorage.getItem(STORED));
    if (!work || work.size !== state.size || String(work.models) !== String(state.models)) return null;
    const data = fromBase64(work.label);
    const fits = data.length === state.size ** 2 && data.every((n) => n < state.labels.length);
    return fits && isSane(work) ? { ...work, label: data } : null;
  } catch {
    return null;
  }
}

// --- Asking -------------------------------------------------------------------------

const asked = (data = label.data) => ({ ...choices, label: toBase64(data) });
const isBusy = () => say("Busy: others are being drawn", "wait");

// Only the last of what was chosen while one is drawn is drawn next.
let asking = false;
async function redraw() {
  version += 1;
  if (asking) return;
  asking = true;
  document.documentElement.dataset.settled = "no";
  try {
    for (let seen = -1; seen !== version; ) {
      seen = version;
      const begun = performance.now();
      const answer = await askArrays("/api/draw", asked(), isBusy);
      drawn = answer;
      if (needsPlain()) plain = await askArrays("/api/draw", asked(new Uint8Array(state.size ** 2)), isBusy);
      document.documentElement.dataset.milliseconds = Math.round(performance.now() - begun);
      say(`Drawn in ${Math.round(performance.now() - begun)} ms`, "good", "off");
      paintPictures();
      paintBoard();
      showSliders();
      if (seen === version && stroke === null) {
        found = await askArrays("/api/judge", asked(), isBusy);
        if (seen === version) paintPictures();
      }
      showChecks();
    }
    document.documentElement.dataset.settled = "yes";
  } catch (error) {
    fail(error);
  } finally {
    asking = false;
  }
}

function changed() {
  keep();
  by("undo").disabled = !history.before.length;
  by("redo").disabled = !history.after.length;
  redraw();
}

// --- Pictures -----------------------------------------------------------------------

const pixelsOf = (canvas) => {
  const side = state.size * Math.ceil(640 / state.size); // whole, so that pixels stay square
  if (canvas.width !== side) canvas.width = canvas.height = side;
  return canvas;
};

function contrast(answer, index) {
  const count = state.size ** 2;
  return answer.images.subarray(index * count, (index + 1) * count);
}

function sources() {
  const list = state.modalities.map((name, index) => ({ name: nameOf(name), index, of: () => drawn }));
  for (const [index, name] of state.modalities.entries()) {
    list.push({ name: `${nameOf(name)} without lesion`, index, of: () => plain });
  }
  return list;
}

const chosenTwo = () => [by("first"), by("second")].map((select) => sources()[Number(select.value)]);
const needsPlain = () => now.view !== "four" && chosenTwo().some((each) => each.index !== undefined && each.name.includes("without"));

function frames() {
  const wanted = now.view === "four" ? state.modalities.length : now.view === "beside" ? 2 : 1;
  const place = by("frames");
  place.dataset.view = now.view;
  while (place.children.length > wanted) place.lastChild.remove();
  while (place.children.length < wanted) {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    figure.append(canvas, document.createElement("figcaption"));
    place.append(figure);
  }
  return [...place.children];
}

let phase = 0; // of blinking
function paintPictures() {
  if (!drawn) return;
  let list = sources().slice(0, state.modalities.length);
  if (now.view === "beside") list = chosenTwo();
  if (now.view === "blink") list = [chosenTwo()[phase]];
  frames().forEach((figure, number) => {
    const source = list[number], answer = source.of();
    if (!answer) return;
    const canvas = pixelsOf(figure.firstChild);
    const pixels = greys(contrast(answer, source.index), state.size, now.window / 100, now.level / 100);
    const context = show(canvas, state.size, pixels, true);
    const lesion = answer === drawn;
    if (by("painted").checked && lesion) outline(context, label.data, state.size, "#ffd700", [], 3);
    if (by("found").checked && lesion && found && found.found) {
      const count = state.size ** 2;
      const several = found.found.length === count * state.modalities.length;
      const from = several ? source.index * count : 0;
      outline(context, found.found.subarray(from, from + count), state.size, "#2fd4e8", [4, 3], 3);
    }
    canvas.setAttribute("aria-label", `${source.name} of the generated brain`);
    canvas.dataset.name = source.name;
    figure.lastChild.textContent = source.name;
  });
}

setInterval(() => {
  if (state && now.view === "blink") { phase = 1 - phase; paintPictures(); }
}, BLINK);

function paintBoard() {
  if (!drawn) return;
  const canvas = pixelsOf(by("board")), { size } = state;
  const under = by("under").value;
  const pixels = under === "map"
    ? mapPixels(drawn.f, drawn.outside, size)
    : greys(contrast(drawn, Number(under)), size, now.window / 100, now.level / 100);
  const context = show(canvas, size, tint(pixels, label.data, under === "map" ? 0.92 : 0.55), false);
  if (!cursor) return;
  const scale = canvas.width / size;
  context.lineWidth = 2;
  const width = now.tool === "fill" ? 1 : now.brush;
  for (const [colour, more] of [["#000", 1.5], ["#fff", 0]]) {
    context.strokeStyle = colour;
    context.beginPath();
    context.arc((cursor[0] + 0.5) * scale, (cursor[1] + 0.5) * scale, (width / 2) * scale + more, 0, 7);
    context.stroke();
  }
}

function showChecks() {
  const tell = (name, passes, text) => {
    const place = document.querySelector(`#checks [data-of="${name}"] dd`);
    place.dataset.passes = passes;
    place.textContent = text;
  };
  if (drawn) {
    const pixels = drawn.beyond === 1 ? "1 pixel" : `${drawn.beyond} pixels`;
    tell("map", drawn.map_passes, `${drawn.map_passes ? "passes" : "fails"}: error ${drawn.mae.toFixed(3)}, at most ${state.mae_threshold}`);
    tell("place", drawn.placed, drawn.placed ? "passes" : `fails: ${pixels} outside`);
  }
  if (found) {
    const each = found.dice.length === state.modalities.length
      ? found.dice.map((dice, index) => `${nameOf(state.modalities[index])} ${dice.toFixed(2)}`).join(", ")
      : "";
    tell("dice", found.passes, `${found.passes ? "passes" : "fails"}: ${found.mean.toFixed(2)}, at least ${state.dice_threshold}${each && ` (${each})`}`);
  }
}

// --- Painting -----------------------------------------------------------------------

function pixelAt(event) {
  const box = by("board").getBoundingClientRect();
  const within = (value) => Math.min(Math.max(Math.floor(value * state.size), 0), state.size - 1);
  return [within((event.clientX - box.left) / box.width), within((event.clientY - box.top) / box.height)];
}

const painted = () => (now.tool === "eraser" ? 0 : now.value);

function begin(at) {
  history.note(label.data);
  stroke = at;
  if (now.tool === "fill") label.fill(...at, now.value, drawn && drawn.outside);
  else label.stamp(...at, now.brush, painted());
  paintBoard();
  redraw();
}

function goOn(at) {
  if (now.tool === "fill") return;
  label.line(stroke, at, now.brush, painted());
  stroke = at;
  paintBoard();
  redraw();
}

function end() {
  if (stroke === null) return;
  stroke = null;
  const before = history.before[history.before.length - 1];
  if (before && label.equals(before)) history.before.pop(); // nothing was changed
  changed();
}

function listenToBoard() {
  const board = by("board");
  board.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary || !drawn) return;
    board.setPointerCapture(event.pointerId);
    begin(cursor = pixelAt(event));
  });
  board.addEventListener("pointermove", (event) => {
    if (!event.isPrimary) return;
    const all = event.getCoalescedEvents?.() || [];
    for (const each of all.length ? all : [event]) {
      cursor = pixelAt(each);
      if (stroke !== null) goOn(cursor);
    }
    paintBoard();
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) board.addEventListener(name, end);
  board.addEventListener("pointerleave", () => { cursor = null; paintBoard(); });
  board.addEventListener("blur", end);
  board.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const middle = Math.floor(state.size / 2);
    cursor = cursor || [middle, middle];
    if (event.key in moves && !event.ctrlKey && !event.metaKey) {
      const far = event.shiftKey ? 5 : 1;
      cursor = cursor.map((n, axis) => Math.min(Math.max(n + far * moves[event.key][axis], 0), state.size - 1));
      if (stroke !== null) goOn(cursor);
    } else if ((event.key === " " || event.key === "Enter") && drawn) {
      if (!event.repeat && stroke === null) begin(cursor);
    } else return;
    event.preventDefault();
    paintBoard();
  });
  board.addEventListener("keyup", (event) => { if (event.key === " " || event.key === "Enter") end(); });
}

function restore(data) {
  if (!data) return;
  stroke = null; // one that is under way ends here
  label = new Label(state.size, data);
  paintBoard();
  changed();
}

function replace(data) {
  history.note(label.data);
  restore(data);
}

// --- Controls -----------------------------------------------------------------------

function pick(name, value) {
  now[name] = value;
  const radio = document.querySelector(`input[name="${name === "value" ? "class" : name}"][value="${value}"]`);
  if (radio) radio.checked = true;
}

function sized(width) {
  now.brush = Math.min(Math.max(width, 1), MOST_BRUSH);
  by("brush").value = now.brush;
  by("brush-value").textContent = now.brush;
  paintBoard();
}

function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    const command = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
    const typing = event.target.matches?.("input[type=number], select, textarea");
    if (typing || event.altKey) return;
    if (command && key === "z") restore(event.shiftKey ? history.redo(label.data) : history.undo(label.data));
    else if (command && key === "y") restore(history.redo(label.data));
    else if (command) return;
    else if (key >= "1" && key <= "9" && Number(key) < state.labels.length) {
      pick("value", Number(key));
      if (now.tool === "eraser") pick("tool", "brush");
    } else if (key === "b") pick("tool", "brush");
    else if (key === "e") pick("tool", "eraser");
    else if (key === "f") pick("tool", "fill");
    else if (key === "[") sized(now.brush - 2);
    else if (key === "]") sized(now.brush + 2);
    else return;
    event.preventDefault();
    keep();
  });
}

function showSliders() {
  by("seed").value = choices.seed;
  by("height").value = choices.height ?? 0;
  by("height-value").textContent = `${(choices.height ?? 0) + 1} of ${state.heights}`;
  by("style").value = choices.style === null ? "mean" : "drawn";
  by("another-style").disabled = choices.style === null;
  document.querySelectorAll("#directions input").forEach((slider, index) => {
    const value = choices.directions[index] ?? drawn?.directions[index] ?? 0;
    if (document.activeElement !== slider || choices.directions[index] === null) slider.value = value;
    slider.parentElement.querySelector("output").textContent = Number(value).toFixed(1);
  });
  for (const name of ["window", "level"]) {
    by(name).value = now[name];
    by(`${name}-value`).textContent = `${now[name]} %`;
  }
}

const random = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;

function choose(part) {
  Object.assign(choices, part);
  showSliders();
  changed();
}

function asTheSeed() {
  return Array(state.directions).fill(null);
}

function listenToControls() {
  for (const input of document.querySelectorAll('input[name="tool"]')) {
    input.addEventListener("change", () => { now.tool = input.value; paintBoard(); keep(); });
  }
  by("brush").addEventListener("input", () => { sized(Number(by("brush").value)); keep(); });
  by("undo").addEventListener("click", () => restore(history.undo(label.data)));
  by("redo").addEventListener("click", () => restore(history.redo(label.data)));
  by("clear").addEventListener("click", () => replace(new Uint8Array(state.size ** 2)));
  by("seed").addEventListener("change", () => {
    const seed = Math.min(Math.max(Math.round(Number(by("seed").value)) || 0, 0), state.most_seed);
    choose({ seed, directions: asTheSeed() });
  });
  by("another").addEventListener("click", () => choose({ seed: random(), directions: asTheSeed() }));
  by("height").addEventListener("input", () => choose({ height: Number(by("height").value) }));
  by("as-seed").addEventListener("click", () => choose({ directions: asTheSeed() }));
  by("style").addEventListener("change", () => choose({ style: by("style").value === "mean" ? null : random() }));
  by("another-style").addEventListener("click", () => choose({ style: random() }));
  by("under").addEventListener("change", paintBoard);
  by("place").addEventListener("click", async () => {
    try {
      const answer = await askArrays("/api/place", { ...asked(), place: random() }, isBusy);
      replace(answer.label);
    } catch (error) { fail(error); }
  });
  by("open").addEventListener("change", async () => {
    const [file] = by("open").files;
    if (!file) return;
    try {
      const answer = await askArrays("/api/open", new Blob([file]), isBusy);
      replace(answer.label);
      say(answer.said);
    } catch (error) { fail(error); }
    by("open").value = "";
  });
  for (const input of document.querySelectorAll('input[name="view"]')) {
    input.addEventListener("change", () => {
      now.view = input.value;
      by("two").hidden = now.view === "four";
      keep();
      redraw();
    });
  }
  for (const id of ["first", "second"]) by(id).addEventListener("change", redraw);
  for (const id of ["painted", "found"]) by(id).addEventListener("change", paintPictures);
  for (const name of ["window", "level"]) {
    by(name).addEventListener("input", () => {
      now[name] = Number(by(name).value);
      showSliders();
      paintPictures();
      paintBoard();
      keep();
    });
  }
  by("window-reset").addEventListener("click", () => {
    Object.assign(now, { window: 100, level: 50 });
    showSliders();
    paintPictures();
    paintBoard();
    keep();
  });
  for (const button of document.querySelectorAll("[data-get]")) {
    button.addEventListener("click", () => download(button));
  }
}

async function download(button) {
  button.disabled = true;
  try {
    const response = await ask(`/api/${button.dataset.get}`, asked(), isBusy);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    const stem = button.dataset.get === "recipe" ? "recipe" : `brats_gan-${choices.seed}`;
    link.download = `${stem}.${button.dataset.name}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(`${link.download} is ready`);
  } catch (error) {
    fail(error);
  } finally {
    button.disabled = false;
  }
}

// --- The beginning ------------------------------------------------------------------

function build() {
  state.labels.forEach((name, value) => {
    if (value === 0) return;
    const choice = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "class", value, checked: value === now.value });
    input.addEventListener("change", () => {
      now.value = value;
      if (now.tool === "eraser") pick("tool", "brush");
      keep();
    });
    const text = document.createElement("span"), chip = document.createElement("i");
    chip.className = "chip";
    chip.style.background = `rgb(${colourOf(value)})`;
    text.append(chip, name);
    choice.append(input, text);
    by("classes").append(choice);
  });
  for (let index = 0; index < state.directions; index++) {
    const row = document.createElement("label"), text = document.createElement("span");
    row.className = "slider";
    text.append(`Direction ${index + 1} `, document.createElement("output"));
    const slider = Object.assign(document.createElement("input"), {
      id: `direction-${index}`, type: "range", min: -state.farthest, max: state.farthest, step: 0.1,
    });
    row.htmlFor = slider.id; // or it would be the label of the output within it
    slider.addEventListener("input", () => {
      const directions = [...choices.directions];
      directions[index] = Number(slider.value);
      choose({ directions });
    });
    row.append(text, slider);
    by("directions").append(row);
  }
  by("height").max = Math.max(state.heights - 1, 0);
  by("height-row").hidden = !state.heights;
  by("directions-row").hidden = !state.directions;
  by("style-row").hidden = !state.styles;
  by("place").disabled = !state.pool;
  by("seed").max = state.most_seed;
  by("brush").max = MOST_BRUSH;
  const option = (select, value, text) => by(select).append(new Option(text, value));
  option("under", "map", "the structural map");
  state.modalities.forEach((name, index) => option("under", index, nameOf(name)));
  for (const select of ["first", "second"]) {
    sources().forEach((source, index) => option(select, index, source.name));
  }
  const last = state.modalities.length - 1;
  by("first").value = last;
  by("second").value = last + state.modalities.length;
  by("about").textContent = `brats_gan ${state.version}, ${state.size} x ${state.size} pixels, models: ${state.models.join(", ")}.`;
}

async function start() {
  if (!location.hash) throw new Refused("Open the address that explore.py printed: it ends with a token.");
  state = await askJson("/api/state");
  label = new Label(state.size);
  choices = {
    seed: 0, height: state.heights ? Math.floor(state.heights / 2) : null,
    directions: asTheSeed(), style: null,
  };
  const work = kept();
  if (work) {
    Object.assign(now, work.now);
    Object.assign(choices, work.choices);
    label = new Label(state.size, work.label);
  }
  build();
  pick("tool", now.tool);
  pick("view", now.view);
  by("two").hidden = now.view === "four";
  sized(now.brush);
  showSliders();
  listenToBoard();
  listenToControls();
  listenToKeys();
  volumeView(state, asked, nameOf, say, fail, isBusy);
  await redraw();
}

// For scripts that drive the page, and its tests.
window.explore = {
  get label() { return Array.from(label.data); },
  get images() { return drawn && Array.from(drawn.images); },
  get state() { return state; },
};

start().catch(fail);
