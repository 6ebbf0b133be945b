// An ONNX file in WebAssembly, for `WebRuntime` in web_runtime.py: batches come in, logits go out, over pipes.
//
//     node web_executor.mjs SCRIPT MODULE FILE
//
// SCRIPT and MODULE are onnxruntime-web's, the very ones that the page holds which runs the model. A message is the
// length of a JSON text (4 bytes, little-endian), this text, and the bytes of the arrays that it lists as "tensors".

import { readFileSync, readSync, writeSync } from "node:fs";
import { argv, exit } from "node:process";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";

// Whatever ends the process that started this one, a graph that never ends is not run on.
const watch = "const { ppid } = process; setInterval(() => process.ppid === ppid || process.kill(process.pid, 'SIGKILL'), 500)";
new Worker(watch, { eval: true }).unref();

const [script, module, file, ...pipes] = argv.slice(2);
const [INPUT, OUTPUT] = pipes.map(Number);
const ARRAYS = { float32: Float32Array, int32: Int32Array };

/** So many bytes of the standard input; where it ends, nobody waits for an answer any more. */
function read(count) {
  const bytes = new Uint8Array(count);
  for (let done = 0; done < count; ) {
    const more = readSync(INPUT, bytes, done, count - done, null);
    if (more === 0) exit(0);
    done += more;
  }
  return bytes;
}

function write(bytes) {
  for (let done = 0; done < bytes.length; ) done += writeSync(OUTPUT, bytes, done);
}

function receive(ort) {
  const header = JSON.parse(new TextDecoder().decode(read(new DataView(read(4).buffer).getUint32(0, true))));
  return header.tensors.map(({ name, type, shape }) => {
    const kind = ARRAYS[type];
    const size = shape.reduce((product, axis) => product * axis, 1);
    return [name, new ort.Tensor(type, new kind(read(size * kind.BYTES_PER_ELEMENT).buffer), shape)];
  });
}

function send(header, data = new Uint8Array()) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, text.length, true);
  write(Buffer.concat([length, text, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]));
}

/** Calls a function, and sends what it did wrong. */
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    const words = String(error?.message ?? error);
    send(words.startsWith("no available backend") ? { left_out: words } : { failure: words }); // the machine's fault
  }
}

await attempt(async () => {
  const ort = await import(pathToFileURL(script));
  ort.env.wasm.numThreads = 1; // logits of int8 files depend on the number of threads
  ort.env.wasm.wasmBinary = readFileSync(module);
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(readFileSync(file), { executionProviders: ["wasm"] });
  send({ version: ort.env.versions.web });
  for (;;) {
    const feeds = Object.fromEntries(receive(ort));
    await attempt(async () => {
      const { [session.outputNames[0]]: logits } = await session.run(feeds);
      send({ type: logits.type, shape: logits.dims }, logits.data);
    });
  }
});
