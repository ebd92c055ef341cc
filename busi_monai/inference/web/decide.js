/** From the graph's outputs to mask and class, as busi_monai.imaging.prediction decides. */

const NORMAL = "normal";
const MALIGNANT = "malignant";
const DEFAULT_MALIGNANT_THRESHOLD = 0.5;

/** Returns the calibrated probabilities of (views, classes) logits. */
export function classProbabilities(logits, classes, temperature) {
  const views = logits.length / classes;
  const means = Array.from({ length: classes }, (_, at) => {
    let sum = 0;
    for (let view = 0; view < views; view++) sum += logits[view * classes + at];
    return sum / views / temperature;
  });
  const top = Math.max(...means);
  const powers = means.map((value) => Math.exp(value - top));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((value) => value / total);
}

/** A class with a threshold is predicted exactly from it on, the last of them first. */
export function chooseClass(probabilities, classes, thresholds) {
  for (let at = classes.length - 1; at >= 0; at--) {
    if (classes[at] in thresholds && probabilities[at] >= thresholds[classes[at]]) {
      return classes[at];
    }
  }
  let free = classes.filter((name) => !(name in thresholds));
  if (!free.length) free = classes;
  const of = (name) => probabilities[classes.indexOf(name)];
  return free.reduce((best, name) => (of(name) > of(best) ? name : best));
}

/**
 * Returns { mask, predictedClass, chosenClass, emptied }: what settings.json makes of lesion
 * probabilities and class probabilities, null where the model has no such head. chosenClass is
 * the class before the consistency rule, emptied whether that rule took a lesion away.
 */
export function decide(lesionProbability, probabilities, settings) {
  let mask = null;
  if (lesionProbability) {
    const threshold = Math.fround(settings.mask_threshold);
    mask = Uint8Array.from(lesionProbability, (value) => (value >= threshold ? 1 : 0));
  }
  if (!probabilities) return { mask, predictedClass: null, chosenClass: null, emptied: false };
  const { classes, class_thresholds: thresholds, consistency: rule } = settings;
  const chosenClass = chooseClass(probabilities, classes, thresholds);
  const untouched = { mask, predictedClass: chosenClass, chosenClass, emptied: false };
  const limit = thresholds[MALIGNANT] ?? DEFAULT_MALIGNANT_THRESHOLD;
  const mayBeMalignant = (probabilities[classes.indexOf(MALIGNANT)] ?? -1) >= limit;
  if (!mask || !rule.enabled || !classes.includes(NORMAL) || mayBeMalignant) return untouched;
  const pixels = mask.reduce((sum, value) => sum + value, 0);
  const small = pixels === 0 || pixels / mask.length < rule.min_lesion_fraction;
  const pNormal = probabilities[classes.indexOf(NORMAL)];
  const normal = small || (rule.normal_threshold !== null && pNormal >= rule.normal_threshold);
  const predictedClass = normal ? NORMAL : chosenClass;
  if (predictedClass !== NORMAL || !rule.normal_empties_mask) {
    return { ...untouched, predictedClass };
  }
  const emptied = pixels > 0;
  return { mask: new Uint8Array(mask.length), predictedClass, chosenClass, emptied };
}
