// Checks the ONNX and ORT files of a release bundle in WebAssembly, in node: node verify.mjs [FOLDER]
//
// Each must give the logits of the golden vectors within its tolerance. Exit code: 0 right, 1 wrong, 2 nothing could be
// checked. How an app calls the model stands in `classify`; in a browser it is the same.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { argv, exit } from "node:process";
import * as ort from "onnxruntime-web/wasm";

ort.env.wasm.numThreads = 1; // logits of int8 files depend on the number of threads
ort.env.logLevel = "error";

/** Logits of one sequence: rows of as many values as there are features. */
export async function classify(session, { inputs, outputs }, sequence, length) {
  const [input, lengths] = inputs;
  const shape = [1, sequence.length, sequence[0].length];
  const feeds = { [input.name]: new ort.Tensor("float32", Float32Array.from(sequence.flat()), shape) };
  if (lengths) feeds[lengths.name] = new ort.Tensor("int32", Int32Array.of(length), [1]);
  const found = await session.run(feeds);
  return found[outputs[0].name].data;
}

const read = async (folder, name) => JSON.parse(await readFile(join(folder, name), "utf8"));

async function check(folder) {
  const [release, signatures, { vectors }] = await Promise.all(
    ["release.json", "signature.json", "golden.json"].map((name) => read(folder, name)),
  );
  let wrong = 0;
  for (const name of Object.keys(release.models).filter((file) => /\.(onnx|ort)$/.test(file))) {
    const session = await ort.InferenceSession.create(await readFile(join(folder, name)));
    const scale = Math.max(...vectors.flatMap((vector) => vector.logits[name].map(Math.abs))) || 1;
    let largest = 0;
    for (const vector of vectors) {
      const logits = await classify(session, signatures[name], vector.sequence, vector.length);
      vector.logits[name].forEach((expected, place) => {
        largest = Math.max(largest, Math.abs(logits[place] - expected) / scale); // once NaN, it stays NaN
      });
    }
    const { tolerance } = release.models[name];
    const right = largest <= tolerance;
    wrong += right ? 0 : 1;
    console.log(`${name}  ${right ? "right" : "WRONG"}: error ${largest.toExponential(1)}, allowed ${tolerance}, ${vectors.length} vectors`);
  }
  return wrong ? 1 : 0;
}

check(argv[2] ?? ".").then(exit, (error) => {
  console.error(`verify: error: ${error.message}`);
  exit(2);
});
