// A native select with its label.
import { h } from "vue";
export default {
  props: { label: String, options: Array, chosen: String },
  emits: ["choose"],
  render() {
    const id = `${this.$attrs.id || "c"}-select`;
    return h("div", [
      h("label", { for: id }, `${this.label} `),
      h(
        "select",
        { id, class: "select", onChange: (event) => this.$emit("choose", event.target.value) },
        this.options.map(([value, text]) => h("option", { value, selected: value === this.chosen }, text)),
      ),
    ]);
  },
};
