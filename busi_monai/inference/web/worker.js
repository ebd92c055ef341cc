/** Reads images and predicts them, beside the page. */

import * as ort from "./runtime/ort.wasm.min.mjs";
import { classProbabilities, decide } from "./decide.js";
import { borderPath, measure } from "./lesion.js";
import { greyPlanes } from "./pixels.js";

const MAX_PIXELS = 16e6; // of which the graph's planes take about a gigabyte
const WASM = "runtime/ort-wasm-simd-threaded.wasm";

const started = start();
started.then(
  ({ about }) => postMessage({ about }),
  (error) => postMessage({ broken: error.message }),
);

onmessage = async ({ data: { id, file } }) => {
  try {
    postMessage({ id, result: await predict(file, await started) });
  } catch (error) {
    postMessage({ id, error: `${file.name}: ${error.message}` });
  }
};

async function start() {
  const [model, graph, wasm] = await Promise.all([
    load("model.json").then((bytes) => JSON.parse(new TextDecoder().decode(bytes))),
    load("model.onnx"),
    load(WASM),
  ]);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;
  ort.env.wasm.wasmBinary = wasm;
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  const wanted = ["lesion_probability", "logits"].filter((name) =>
    session.outputNames.includes(name),
  );
  const runtime = `ONNX Runtime Web ${ort.env.versions.web}`;
  return { session, wanted, settings: model.settings, about: { ...model, runtime } };
}

async function load(name) {
  const address = new URL(name, import.meta.url);
  const answer = await fetch(address, { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${name} cannot be loaded (HTTP ${answer.status})`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function predict(file, { session, wanted, settings }) {
  const begun = performance.now();
  const { width, height, rgba, notes } = await read(file);
  const { planes, data } = greyPlanes(rgba);
  const image = new ort.Tensor("uint8", data, [planes, 1, height, width]);
  const found = await session.run({ image }, wanted);
  const probabilities =
    found.logits &&
    classProbabilities(found.logits.data, settings.classes.length, settings.temperature);
  const decided = decide(found.lesion_probability?.data, probabilities, settings);
  const lesion = decided.mask && {
    ...measure(decided.mask, width),
    path: borderPath(decided.mask, width, height),
    file: await pngOf(decided.mask, width, height),
  };
  for (const tensor of Object.values(found)) tensor.dispose();
  const { predictedClass, chosenClass, emptied } = decided;
  if (predictedClass !== chosenClass) {
    notes.push(`By its probabilities alone the class would be ${chosenClass}; the rule on which mask and class agree made it ${predictedClass}.`);
  }
  if (emptied) notes.push("A lesion was outlined, too; the same rule left it out.");
  const seconds = (performance.now() - begun) / 1000;
  return { width, height, probabilities, predictedClass, lesion, notes, seconds };
}

async function read(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error(
      "this is no image that the browser reads; expected PNG, JPEG, BMP or WebP. " +
        "busi-monai predict reads TIFF, NIfTI and DICOM, too",
    );
  }
  const { width, height } = bitmap;
  if (Math.min(width, height) < 2) throw new Error(`${width}×${height} pixels is no image`);
  if (width * height > MAX_PIXELS) {
    throw new Error(
      `${width}×${height} pixels are more than the ${MAX_PIXELS / 1e6} million that this page ` +
        "takes; use busi-monai predict",
    );
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  refuseChangedPixels(context);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  return { width, height, rgba, notes: await notesOf(file, rgba) };
}

/** Some browsers add noise to what a page reads, against fingerprints of the device. */
function refuseChangedPixels(context) {
  const { width, height } = context.canvas;
  const known = new ImageData(Math.min(width, 32), Math.min(height, 32));
  known.data.forEach((_, i) => (known.data[i] = i % 4 === 3 ? 255 : (i * 37) & 255));
  context.putImageData(known, 0, 0);
  const found = context.getImageData(0, 0, known.width, known.height).data;
  context.clearRect(0, 0, width, height);
  if (found.some((value, i) => value !== known.data[i])) {
    throw new Error(
      "this browser changes the pixels that a page reads (protection against fingerprinting); " +
        "allow canvas data for this page",
    );
  }
}

async function notesOf(file, rgba) {
  const head = new Uint8Array(await file.slice(0, 26).arrayBuffer());
  const notes = [];
  if (String.fromCharCode(...head.slice(1, 4)) === "PNG" && head[24] === 16) {
    notes.push("Of the 16 bits of this PNG the browser reads 8; busi-monai predict reads all.");
  }
  for (let i = 3; i < rgba.length; i += 4) {
    if (rgba[i] < 255) {
      notes.push("The image is partly transparent: busi-monai predict may read other grey values there.");
      break;
    }
  }
  return notes;
}

function pngOf(mask, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  new Uint32Array(image.data.buffer).set(Uint32Array.from(mask, (v) => (v ? 0xffffffff : 0xff000000)));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.convertToBlob();
}
