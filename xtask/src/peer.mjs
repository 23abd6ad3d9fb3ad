// The peer's side of `cargo xtask bench --peer`: writes a model of random Q4_0 blocks, and measures it.
//   node peer.mjs MODULES SHAPE FILE THREADS FLASH
// prints one JSON object: seconds of prompts and of single tokens, medians.
import {createRequire} from "node:module";
import {closeSync, existsSync, openSync, renameSync, writeSync} from "node:fs";
import {pathToFileURL} from "node:url";

const [modules, name, file, threads, flash] = process.argv.slice(2);
const SHAPES = {
    "llama-1b": {arch: "llama", hidden: 2048, inner: 8192, layers: 16, heads: 32, kv: 8, dim: 64, vocab: 128256, eps: 1e-5, base: 500000},
    "qwen3-0.6b": {arch: "qwen3", hidden: 1024, inner: 3072, layers: 28, heads: 16, kv: 8, dim: 128, vocab: 151936, eps: 1e-6, base: 1000000},
};
const s = SHAPES[name];

/** GGUF version 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
function writeModel(path) {
    const parts = [];
    const u32 = (x) => { const b = Buffer.alloc(4); b.writeUInt32LE(x); parts.push(b); };
    const u64 = (x) => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(x)); parts.push(b); };
    const string = (x) => { u64(Buffer.byteLength(x)); parts.push(Buffer.from(x)); };
    const number = (key, x) => { string(key); u32(4); u32(x); };
    const float = (key, x) => { string(key); u32(6); const b = Buffer.alloc(4); b.writeFloatLE(x); parts.push(b); };
    const text = (key, x) => { string(key); u32(8); string(x); };
    const tensors = [];
    const matrix = (label, columns, rows) => tensors.push({label, dims: [columns, rows], type: 2, bytes: columns * rows / 32 * 18});
    const vector = (label, length) => tensors.push({label, dims: [length], type: 0, bytes: length * 4});
    matrix("token_embd.weight", s.hidden, s.vocab);
    vector("output_norm.weight", s.hidden);
    for (let i = 0; i < s.layers; i++) {
        const at = `blk.${i}.`;
        vector(at + "attn_norm.weight", s.hidden);
        matrix(at + "attn_q.weight", s.hidden, s.heads * s.dim);
        matrix(at + "attn_k.weight", s.hidden, s.kv * s.dim);
        matrix(at + "attn_v.weight", s.hidden, s.kv * s.dim);
        matrix(at + "attn_output.weight", s.heads * s.dim, s.hidden);
        if (s.arch === "qwen3") {
            vector(at + "attn_q_norm.weight", s.dim);
            vector(at + "attn_k_norm.weight", s.dim);
        }
        vector(at + "ffn_norm.weight", s.hidden);
        matrix(at + "ffn_gate.weight", s.hidden, s.inner);
        matrix(at + "ffn_up.weight", s.hidden, s.inner);
        matrix(at + "ffn_down.weight", s.inner, s.hidden);
    }
    parts.push(Buffer.from("GGUF"));
    u32(3);
    u64(tensors.length);
    u64(20);
    text("general.architecture", s.arch);
    text("general.name", name);
    number("general.file_type", 2);
    number(`${s.arch}.context_length`, 8192);
    number(`${s.arch}.embedding_length`, s.hidden);
    number(`${s.arch}.block_count`, s.layers);
    number(`${s.arch}.feed_forward_length`, s.inner);
    number(`${s.arch}.attention.head_count`, s.heads);
    number(`${s.arch}.attention.head_count_kv`, s.kv);
    number(`${s.arch}.attention.key_length`, s.dim);
    number(`${s.arch}.attention.value_length`, s.dim);
    number(`${s.arch}.vocab_size`, s.vocab);
    float(`${s.arch}.attention.layer_norm_rms_epsilon`, s.eps);
    float(`${s.arch}.rope.freq_base`, s.base);
    // A vocabulary that the peer can load: special tokens, bytes, and words that nobody writes.
    const words = Array.from({length: s.vocab}, (_, i) =>
        ["<unk>", "<s>", "</s>"][i] ?? (i < 259 ? `<0x${(i - 3).toString(16).toUpperCase().padStart(2, "0")}>` : `w${i}`));
    const array = (key, type, items, item) => { string(key); u32(9); u32(type); u64(items.length); items.forEach(item); };
    text("tokenizer.ggml.model", "llama");
    array("tokenizer.ggml.tokens", 8, words, string);
    array("tokenizer.ggml.scores", 6, words, (_, i) => { const b = Buffer.alloc(4); b.writeFloatLE(-i); parts.push(b); });
    array("tokenizer.ggml.token_type", 5, words, (_, i) => u32(i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1));
    number("tokenizer.ggml.bos_token_id", 1);
    number("tokenizer.ggml.eos_token_id", 2);
    let offset = 0;
    for (const tensor of tensors) {
        string(tensor.label);
        u32(tensor.dims.length);
        tensor.dims.forEach(u64);
        u32(tensor.type);
        u64(offset);
        offset += Math.ceil(tensor.bytes / 32) * 32;
    }
    const out = openSync(path + ".part", "w");
    const header = Buffer.concat(parts);
    writeSync(out, Buffer.concat([header, Buffer.alloc((32 - header.length % 32) % 32)]));
    // Blocks of a float16 scale of 0.01 and 16 bytes of codes; a period that shares nothing with rows.
    const random = Buffer.alloc(18 * 65537);
    let state = 1;
    for (let i = 0; i < random.length; i++) {
        state = Math.imul(state, 1103515245) + 12345 | 0;
        random[i] = i % 18 === 0 ? 0x1f : i % 18 === 1 ? 0x21 : state >>> 16;
    }
    const ones = Buffer.alloc(4 * 65536);
    for (let i = 0; i < ones.length; i += 4) ones.writeFloatLE(1, i);
    for (const {type, bytes} of tensors) {
        const from = type === 2 ? random : ones;
        for (let left = Math.ceil(bytes / 32) * 32; left > 0; left -= from.length) {
            writeSync(out, from.subarray(0, Math.min(left, from.length)));
        }
    }
    closeSync(out);
    renameSync(path + ".part", path);
}

const median = (list) => list.sort((a, b) => a - b)[list.length >> 1];

if (!existsSync(file)) writeModel(file);
const require = createRequire(pathToFileURL(modules + "/"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const started = performance.now();
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: +threads});
const model = await llama.loadModel({modelPath: file, gpuLayers: 0});
const context = await model.createContext({contextSize: 4096, batchSize: 512, threads: +threads, flashAttention: flash === "1"});
const sequence = context.getSequence();
const load = (performance.now() - started) / 1000;

const tokens = (n) => Array.from({length: n}, (_, i) => (i * 7) % 1000 + 1);
/** Seconds of `n` tokens after what is there. */
async function prompt(n) {
    const from = performance.now();
    await sequence.controlledEvaluate([...tokens(n - 1), [1, {generateNext: {token: true}}]].slice(0, n));
    return (performance.now() - from) / 1000;
}
const result = {load};
async function several(key, n, runs, fresh) {
    const times = [];
    for (let i = 0; i < runs; i++) {
        if (fresh) await sequence.clearHistory();
        times.push(await prompt(n));
    }
    result[key] = median(times);
}
await prompt(16);
for (const n of [2, 4, 8, 16]) await several(`prompt ${n}`, n, 7, true);
await several("prompt 128", 128, 3, true);
await several("token", 1, 31, false);
await several("prompt 2048", 2048, 1, true);
await several("token after 2048", 1, 21, false);
console.log(JSON.stringify(result));
process.exit(0);
