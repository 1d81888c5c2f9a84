import js from "@eslint/js";
import globals from "globals";

const strict = {
  eqeqeq: "error",
  "no-console": "error",
  "no-eval": "error",
  "no-shadow": "error",
  "no-unused-vars": ["error", { args: "after-used" }],
  "no-var": "error",
  "object-shorthand": "error",
  "prefer-const": "error",
  "max-lines": ["error", 400],
  "max-lines-per-function": ["error", 60],
  complexity: ["error", 12],
};

export default [
  js.configs.recommended,
  { rules: strict, languageOptions: { ecmaVersion: 2022, sourceType: "module" } },
  { files: ["**/page/*.js"], languageOptions: { globals: globals.browser } },
  {
    files: ["**/page/worker.js", "**/page/isolation.js"],
    languageOptions: { sourceType: "script", globals: globals.serviceworker },
  },
  {
    files: ["tests/browser/*.js"],
    languageOptions: { globals: { ...globals.node, ...globals.browser } },
  },
];
