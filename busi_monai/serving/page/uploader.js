// NiceGUI's upload.js without its template: a render function needs no 'unsafe-eval'.
import { h, resolveComponent } from "vue";
export default {
  inheritAttrs: false,
  props: { url: String },
  mounted() {
    setTimeout(() => this.$forceUpdate()); // window.path_prefix is set once the app is mounted
  },
  render() {
    return h(
      resolveComponent("q-uploader"),
      {
        ...this.$attrs,
        ref: "q",
        url: (window.path_prefix || "") + this.url,
        // forget the sent files: the same file may be chosen again, and the browser lets go of its memory
        onFinish: () => this.$nextTick(() => this.$refs.q?.reset()),
      },
      this.$slots,
    );
  },
};
