// Generate greedily with transformers.js, single prompts and a batch padded on the left. `run` takes a `test_interop.Request`.
import { AutoModelForCausalLM, AutoTokenizer, Tensor, env, pipeline } from "/transformers/transformers.min.js";

env.allowRemoteModels = false;
env.allowLocalModels = true; // in a browser the default is false
env.localModelPath = "/models/";
env.useBrowserCache = false;
env.backends.onnx.wasm.wasmPaths = "/ort/";

function tensor(rows) {
  const flat = BigInt64Array.from(rows.flat(), BigInt);
  return new Tensor("int64", flat, [rows.length, rows[0].length]);
}

async function greedy(model, rows, count) {
  const width = Math.max(...rows.map((row) => row.length));
  const padded = (row, filler, value) => Array(width - row.length).fill(filler).concat(value ?? row);
  const generated = await model.generate({
    input_ids: tensor(rows.map((row) => padded(row, 0))),
    attention_mask: tensor(rows.map((row) => padded(row, 0, Array(row.length).fill(1)))),
    max_new_tokens: count,
    do_sample: false,
  });
  return generated.tolist().map((row) => row.slice(width).map(Number));
}

async function run({ folder, prompts, count, texts, options }) {
  const model = await AutoModelForCausalLM.from_pretrained(folder, options);
  const tokenizer = await AutoTokenizer.from_pretrained(folder);
  const alone = [];
  for (const prompt of prompts) alone.push((await greedy(model, [prompt], count))[0]);
  const batch = await greedy(model, prompts, count);
  const encoded = texts.map((text) => tokenizer.encode(text));
  const decoded = encoded.map((ids) => tokenizer.decode(ids));
  const writer = await pipeline("text-generation", folder, options);
  const [{ generated_text: text }] = await writer(texts[1], { max_new_tokens: count, do_sample: false });
  return { alone, batch, encoded, decoded, text };
}

window.run = run;
