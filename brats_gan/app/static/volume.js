// The view of volumes, by NiiVue, which is loaded when it is first asked for.

import { colourOf } from "./pictures.js";
import { ask, askArrays } from "./talk.js";

const by = (id) => document.getElementById(id);

function loaded() {
  if (window.niivue) return Promise.resolve(window.niivue);
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = "vendor/niivue.umd.js";
    script.onload = () => done(window.niivue);
    script.onerror = () => failed(new Error("NiiVue could not be loaded"));
    document.head.append(script);
  });
}

export function volumeView(state, asked, nameOf, say, fail, busy) {
  const option = (select, value, text) => by(select).append(new Option(text, value));
  if (state.heights) option("whose", "generated", "the brain of above");
  state.subjects.forEach((name, index) => option("whose", index, name));
  state.modalities.forEach((name, index) => option("contrast", index, nameOf(name)));
  by("contrast").value = state.modalities.length - 1;
  if (!by("whose").options.length) by("volume").hidden = true;
  let view = null;

  // {image, label, range, said}: bytes of NIfTI, the label null where there is none and
  // why, and the intensities that are shown, where they are known.
  async function bytes() {
    const whose = by("whose").value, contrast = Number(by("contrast").value);
    if (whose === "generated") {
      const answer = await askArrays("/api/volume", asked(), busy);
      return { image: answer[state.modalities[contrast]], label: answer.label, range: { cal_min: 0, cal_max: 1 }, said: "" };
    }
    const of = async (channel) =>
      new Uint8Array(await (await ask(`/api/subjects/${whose}/${channel}`, undefined, busy)).arrayBuffer());
    const image = await of(contrast);
    let said = "";
    const label = await of(state.modalities.length).catch((error) => {
      said = ` without its label: ${error.message}`;
      return null;
    });
    return { image, label, range: {}, said };
  }

  function labelColours(image) {
    const table = { R: [], G: [], B: [], A: [], I: [], labels: [] };
    state.labels.forEach((name, value) => {
      const [r, g, b] = colourOf(value);
      table.R.push(r); table.G.push(g); table.B.push(b);
      table.A.push(value ? 255 : 0);
      table.I.push(value); table.labels.push(name);
    });
    image.setColormapLabel(table);
  }

  by("show-volume").addEventListener("click", async () => {
    const button = by("show-volume");
    button.disabled = true;
    by("volume-stage").dataset.shown = "no";
    say("Drawing the volume", "wait");
    try {
      const [{ Niivue, NVImage }, { image, label, range, said }] = await Promise.all([loaded(), bytes()]);
      by("volume-stage").hidden = false;
      if (!view) {
        view = new Niivue({
          show3Dcrosshair: true, backColor: [0.02, 0.03, 0.04, 1],
          isRadiologicalConvention: true, // as the pictures above
          crosshairWidth: 0.6, dragAndDropEnabled: false, logLevel: "error",
        });
        await view.attachToCanvas(by("gl"));
        view.setMultiplanarLayout(2);
        view.setSliceType(view.sliceTypeMultiplanar);
      }
      while (view.volumes.length) view.removeVolume(view.volumes[0]);
      const open = (content, name, more) =>
        NVImage.loadFromFile({ file: new File([content], name), name, ...more });
      view.addVolume(await open(image, "image.nii", { colormap: "gray", ...range }));
      if (label && by("with-label").checked) {
        const overlay = await open(label, "label.nii", { opacity: 0.7 });
        labelColours(overlay);
        view.addVolume(overlay);
      }
      view.updateGLVolume();
      by("volume-stage").dataset.shown = "yes";
      say(`The volume is shown${said}`, said ? "wait" : "good");
    } catch (error) {
      fail(error);
    } finally {
      button.disabled = false;
    }
  });
}
