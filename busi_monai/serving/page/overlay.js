// Image, outline and heat map above each other. Native range inputs, so that keys and screen
// readers get all of it; render functions throughout, as templates would need 'unsafe-eval'.
import { h } from "vue";
export default {
  props: {
    image: String,
    outline: String,
    heat: String,
    alt: String,
    heatAlt: String,
    frames: { type: Number, default: 1 },
    place: { type: Number, default: 0 },
    told: String,
  },
  emits: ["place"],
  data: () => ({ opacity: 100 }),
  methods: {
    slider(name, label, shown, input) {
      const id = `${this.$attrs.id || "c"}-${name}`;
      return [
        h("label", { for: id, class: "range-label" }, [label, h("span", { "aria-hidden": "true" }, ` ${shown}`)]),
        h("input", { id, type: "range", class: "range", "aria-valuetext": shown, ...input }),
      ];
    },
  },
  render() {
    const shade = { opacity: this.opacity / 100 };
    const stack = [
      h("img", { src: this.image, alt: this.alt }),
    ];
    if (this.heat) stack.push(h("img", { src: this.heat, alt: this.heatAlt, class: "heat", style: shade }));
    stack.push(h("img", { src: this.outline, alt: "", class: "outline", style: shade }));
    const parts = [h("div", { class: "stack" }, stack)];
    parts.push(
      ...this.slider("opacity", "Opacity of outline and heat map:", `${this.opacity} %`, {
        min: 0,
        max: 100,
        step: 5,
        value: this.opacity,
        onInput: (event) => (this.opacity = Number(event.target.value)),
      }),
    );
    if (this.frames > 1)
      parts.push(
        ...this.slider("frame", "Frame of the loop:", this.told, {
          min: 0,
          max: this.frames - 1,
          step: 1,
          value: this.place,
          onChange: (event) => this.$emit("place", Number(event.target.value)),
        }),
      );
    return h("div", parts);
  },
};
