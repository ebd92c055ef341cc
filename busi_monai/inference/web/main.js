/** The page: takes a file, shows what the worker makes of it. */

const $ = (id) => document.getElementById(id);
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const grouped = new Intl.NumberFormat("en");
const files = new Map(); // by number, while they are in work
const bars = new Map(); // by class
let latest = 0;

// from a blob, so that the worker keeps to the page's policy: it connects to no other host
const script = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
const source = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
const worker = new Worker(source, { type: "module" });
say("The model is loading …");

worker.onerror = () => complain("This browser cannot run the page; it needs WebAssembly with SIMD.");
worker.onmessage = ({ data }) => {
  if (data.about) return introduce(data.about);
  if (data.broken) return complain(`The model did not start: ${data.broken}`);
  const file = files.get(data.id);
  files.delete(data.id);
  if (data.id !== latest) return; // another image was chosen meanwhile
  $("result").removeAttribute("aria-busy");
  if (data.error) complain(data.error);
  else show(file, data.result);
};

$("file").addEventListener("change", ({ target }) => {
  if (target.files.length) predict(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", async () => {
    const name = button.dataset.example;
    const answer = await fetch(`examples/${name}.png`);
    predict(new File([await answer.blob()], `phantom ${name}.png`));
  });
}
const zone = document.querySelector(".drop");
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    zone.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    const dropped = kind === "drop" ? event.dataTransfer.files : [];
    if (dropped.length) predict(dropped[0]);
    else if (kind === "drop") complain("What was dropped is no file; drop one image.");
  });
}

function say(text) {
  $("status").textContent = text;
}

function complain(text) {
  say("");
  $("alert").textContent = text;
}

function predict(file) {
  $("alert").textContent = "";
  say(`${file.name}: predicting …`);
  $("result").setAttribute("aria-busy", "true");
  files.set(++latest, file);
  worker.postMessage({ id: latest, file });
}

function introduce({ model, settings, version, weights_sha256: hash, runtime }) {
  for (const name of settings.classes) {
    const label = document.createElement("p");
    const bar = document.createElement("progress");
    const value = document.createElement("span");
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Probability of ${name}`);
    value.textContent = "–";
    label.append(name, value);
    $("bars").append(label, bar);
    bars.set(name, { label, value, bar });
  }
  $("about").textContent = `${model}, weights ${hash.slice(0, 12)}, busi_monai ${version}, ${runtime}`;
  if (!files.size && !$("alert").textContent) say("Ready: choose an image, or try a phantom.");
}

function show(file, { width, height, probabilities, predictedClass, lesion, notes, seconds }) {
  const chosen = probabilities?.[[...bars.keys()].indexOf(predictedClass)];
  $("verdict").textContent = predictedClass ? `${predictedClass} (${percent(chosen)})` : "no class";
  [...bars].forEach(([name, { label, value, bar }], at) => {
    bar.value = probabilities[at];
    value.textContent = percent(probabilities[at]);
    label.classList.toggle("chosen", name === predictedClass);
  });
  const found = lesion?.pixels
    ? `${grouped.format(lesion.pixels)} px (${percent(lesion.pixels / width / height)} of the image)`
    : "none outlined";
  const box = lesion?.box;
  $("lesion").textContent = found;
  $("box").textContent = box ? `${box[2]} × ${box[3]} px, from (${box[0]}, ${box[1]})` : "–";
  $("size").textContent = `${width} × ${height} px`;
  $("time").textContent = `${seconds.toFixed(2)} s`;
  $("notes").replaceChildren(
    ...notes.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
  );
  $("name").textContent = file.name;
  $("empty").hidden = true;
  showImage(file, width, height, lesion);
  say(`${file.name}: ${$("verdict").textContent}. Lesion: ${found}. The result is below.`);
}

function showImage(file, width, height, lesion) {
  const [image, outline, mask] = [$("shown"), $("outline"), $("mask")];
  for (const old of [image.src, mask.href]) if (old) URL.revokeObjectURL(old);
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  image.alt = lesion?.box
    ? `${file.name} with the lesion's outline, ${lesion.box[2]} × ${lesion.box[3]} pixels`
    : `${file.name} without an outline`;
  outline.removeAttribute("hidden");
  outline.setAttribute("viewBox", `0 0 ${width} ${height}`);
  for (const path of outline.children) path.setAttribute("d", lesion?.path ?? "");
  if (!lesion) return;
  mask.href = URL.createObjectURL(lesion.file);
  mask.download = `${file.name.replace(/\.[^.]*$/, "")}_mask.png`;
  mask.removeAttribute("aria-disabled");
}
