//! One valid library, and everything that can be wrong with it.

use super::*;
use crate::library::{Io, Kernel, KernelModule, MemoryPlan, ModelInfo, Parameter, TOP_BYTES, Top};
use crate::plan::*;
use knapsack_tensor::{Activation, GroupFormat, Grouping, Layout, NormKind};
use proptest::prelude::*;
use serde_json::{Value, json};

const CHUNK: u32 = 4;

fn parameter(list: &mut Vec<Parameter>, shape: &[u64], dtype: DType) -> ParameterId {
    let name = format!("p{}", list.len());
    list.push(Parameter { name, shape: shape.to_vec(), dtype });
    ParameterId(list.len() as u32 - 1)
}

fn grouped(list: &mut Vec<Parameter>, n: u64, k: u64, layout: Layout) -> Weight {
    let format = GroupFormat { bits: 4, group: 32, layout, scale: DType::F16 };
    let codes = parameter(list, &format.code_shape(n, k), DType::U32);
    let scales = parameter(list, &format.scale_shape(n, k), DType::F16);
    Weight::Grouped { codes, scales, format }
}

fn rows(offset: u64, columns: u32) -> Rows {
    Rows { offset: offset * 4096, columns }
}

fn scratch(offset: u64, k: u32) -> Option<Scratch> {
    Some(Scratch { offset: offset * 4096, bytes_per_token: quantized_row_bytes(Grouping::of(4), k) })
}

fn plain(op: Op) -> Launch {
    Launch { op, scratch: None, gpu: None }
}

/// Every operation once: hidden 64, one layer of 4 heads over 2 of 16, ring of window 6 and 2 sinks.
fn library() -> ModelLibrary {
    let mut p = Vec::new();
    let table = grouped(&mut p, 100, 64, Layout::Nk);
    let gain = parameter(&mut p, &[64], DType::F16);
    let norm = NormWeights { kind: NormKind::Rms, epsilon: 1e-5, weight: Some(gain), bias: None };
    let head_gain = parameter(&mut p, &[16], DType::F16);
    let head_norm = NormWeights { weight: Some(head_gain), ..norm };
    let qkv = grouped(&mut p, 128, 64, Layout::Kn);
    let bias = parameter(&mut p, &[128], DType::F16);
    let gate_up = grouped(&mut p, 96, 64, Layout::Nk);
    let down = Weight::Dense(parameter(&mut p, &[64, 48], DType::F16));
    let (hidden, normed) = (rows(1, 64), rows(2, 64));
    let linear = |weight, input: Rows, output: Rows, out_features, epilogue, bias, scratch| Launch {
        scratch,
        ..plain(Op::Linear(Linear { input, weight, out_features, bias, epilogue, output }))
    };
    let layer = vec![
        plain(Op::Embed(Embed { table, vocab: 100, scale: 1.0, output: hidden })),
        plain(Op::Norm(Norm { input: hidden, rows: RowSelect::All, norm, output: normed })),
        linear(qkv, normed, rows(3, 128), 128, Epilogue::None, Some(bias), scratch(6, 64)),
        plain(Op::RopeAppend(RopeAppend {
            apart: None,
            qkv: rows(3, 128),
            order: QkvOrder::Sections,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            rotary: 16,
            rope_table: 0,
            query_table: None,
            norm_place: NormPlace::Heads,
            query_norm: Some(head_norm),
            key_norm: Some(head_norm),
            value_norm: None,
            layer: 0,
            query: rows(4, 64),
        })),
        plain(Op::Attention(Attention {
            query: rows(4, 64),
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            scale: 0.25,
            soft_cap: Some(50.0),
            layer: 0,
            gate: None,
            output: rows(5, 64),
        })),
        plain(Op::AddNorm(AddNorm {
            residual: hidden,
            delta: rows(5, 64),
            pre: Some(norm),
            groups: 1,
            scale: None,
            sum: hidden,
            post: Some((norm, normed)),
        })),
        linear(gate_up, normed, rows(3, 48), 96, Epilogue::Gated(Activation::Silu), None, scratch(6, 64)),
        linear(down, rows(3, 48), hidden, 64, Epilogue::Add(hidden), None, None),
    ];
    let head = vec![
        plain(Op::Norm(Norm { input: hidden, rows: RowSelect::One, norm, output: normed })),
        linear(table, normed, rows(7, 100), 100, Epilogue::SoftCap(30.0), None, scratch(6, 64)),
    ];
    let kv = KvLayer { kv_heads: 2, head_dim: 16, positions: 11, window: Some(6), sinks: 2, dtype: DType::F16 };
    ModelLibrary {
        name: "tiny".into(),
        compiler: "test".into(),
        target: Target::Host,
        model: ModelInfo {
            family: "llama".into(),
            quantization: "q4f16_1".into(),
            vocab_size: 100,
            hidden_size: 64,
            layers: 1,
            context_window_size: None,
            sliding_window_size: Some(6),
            attention_sink_size: 2,
            prefill_chunk_size: CHUNK,
        },
        memory: MemoryPlan {
            weights: p.iter().map(|p| p.bytes().unwrap()).sum(),
            kv_cache: kv.bytes(),
            file: 0,
            state: 0,
            workspace: 8 * 4096 + TOP_BYTES + 4 * 256,
        },
        parameters: p,
        rope_tables: vec![RopeTable {
            frequencies: vec![0.5; 8],
            magnitude: 1.0,
            growth: None,
            rows: Rows { offset: 256, columns: 16 },
        }],
        kv_cache: vec![kv],
        states: Vec::new(),
        lookups: Vec::new(),
        io: Io {
            tokens: Scratch { offset: 0, bytes_per_token: 4 },
            call: 8 * 4096,
            hidden,
            carried: Vec::new(),
            logits: rows(7, 100),
        },
        prefill: Function { launches: layer.clone() },
        decode: Function { launches: layer },
        head: Function { launches: head },
        kernels: None,
    }
}

fn top_call() -> KernelCall {
    let groups = [Groups { count: 2, tokens_per_group: 0 }; 3];
    KernelCall { kernel: 0, groups, more: 0, scratch: false, then: Some(Then { kernel: 0, groups }) }
}

fn gpu_library() -> ModelLibrary {
    let mut library = library();
    library.target = Target::OpenCl;
    library.kernels = Some(KernelModule {
        source: "…".into(),
        kernels: vec![Kernel { name: "k".into(), threads: [64, 1, 1], images: Vec::new() }],
        metallibs: vec![],
        top: vec![Top { count: 1, gpu: top_call() }],
    });
    let groups = Groups { count: 3, tokens_per_group: 2 };
    let call = KernelCall { kernel: 0, groups: [groups; 3], more: 0, scratch: false, then: None };
    for function in [&mut library.prefill, &mut library.decode, &mut library.head] {
        function.launches.iter_mut().for_each(|launch| launch.gpu = Some(call.clone()));
    }
    library
}

#[test]
fn the_samples_are_valid_and_survive_encoding() {
    for library in [library(), gpu_library()] {
        assert_eq!(library.validate(), Ok(()));
        assert_eq!(ModelLibrary::decode(&library.encode()).unwrap(), library);
    }
}

/// Sets the field at a JSON pointer and validates the result.
fn with(library: &ModelLibrary, pointer: &str, value: Value) -> Result<(), InvalidLibrary> {
    let mut json = serde_json::to_value(library).unwrap();
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    serde_json::from_value::<ModelLibrary>(json).unwrap_or_else(|error| panic!("{pointer}: {error}")).validate()
}

#[test]
fn each_contradiction_is_found_where_it_is() {
    let cases: Vec<(&str, Value, &str, &str)> = vec![
        ("/name", json!(""), "library", "name"),
        ("/compiler", json!("a\u{0}b"), "library", "control"),
        ("/target", json!("metal"), "kernels", "a library for a GPU holds none"),
        ("/model/vocab_size", json!(0), "model", "vocab_size is 0"),
        ("/model/vocab_size", json!(101), "io", "logits have 100 columns"),
        ("/model/layers", json!(0), "kv cache", "1 layers, the model has 0"),
        ("/model/prefill_chunk_size", json!(5), "kv cache layer 0", "11 positions, at least 12"),
        ("/model/prefill_chunk_size", json!(4_000_000_000u32), "model", "prefill_chunk_size"),
        ("/model/sliding_window_size", json!(null), "model", "neither"),
        ("/parameters/1/name", json!("p0"), "parameter 1 (`p0`)", "twice"),
        ("/parameters/0/shape", json!([100, 9]), "memory", "weights is"),
        ("/parameters/0/shape", json!([0, 8]), "parameter 0 (`p0`)", "positive"),
        ("/parameters/0/shape", json!([1u64 << 40, 1u64 << 40]), "parameter 0 (`p0`)", "exceeds"),
        ("/parameters/2/dtype", json!("bfloat16"), "", ""),
        ("/rope_tables/0/frequencies/3", json!(1e300), "rope table 0", "not finite"),
        ("/rope_tables/0/frequencies", json!([]), "rope table 0", "0 frequencies"),
        ("/rope_tables/0/rows/columns", json!(18), "rope table 0", "18 columns for 8"),
        ("/rope_tables/0/rows/offset", json!(1), "rope table 0", "multiple of 256"),
        ("/rope_tables/0/rows/offset", json!(0), "io", "overlaps the tokens"),
        ("/rope_tables/0/rows/offset", json!(8 * 4096), "io", "overlaps the tokens"),
        ("/io/call", json!(0), "io", "the numbers of a call overlap the tokens"),
        ("/io/call", json!(12), "io", "multiple of 256"),
        ("/io/call", json!(u64::MAX - 255), "io", "no end"),
        ("/io/call", json!(8 * 4096 + 256), "io", "exceeds the workspace"),
        ("/io/call", json!(4096), "prefill launch 0 (embed)", "overlaps the numbers of the call"),
        ("/rope_tables/0/rows/offset", json!(u64::MAX - 255), "rope table 0", "exceeds the workspace"),
        ("/kv_cache/0/positions", json!(10), "kv cache layer 0", "10 positions, at least 11"),
        ("/kv_cache/0/sinks", json!(u32::MAX), "kv cache layer 0", "sinks"),
        ("/kv_cache/0/window", json!(0), "kv cache layer 0", "window is 0"),
        ("/kv_cache/0/dtype", json!("uint32"), "kv cache layer 0", "uint32"),
        ("/kv_cache/0/head_dim", json!(1024), "kv cache layer 0", "head_dim"),
        ("/memory/weights", json!(7), "memory", "weights is 7"),
        ("/memory/kv_cache", json!(7), "memory", "kv_cache is 7"),
        ("/memory/workspace", json!(4096), "io", "exceeds the workspace"),
        ("/io/tokens/bytes_per_token", json!(8), "io", "8 bytes"),
        ("/io/tokens/offset", json!(20 * 4096), "io", "exceeds"),
        ("/io/hidden/columns", json!(32), "io", "hidden has 32"),
        ("/io/hidden/offset", json!(8192), "head launch 0 (norm)", "other than the residual stream"),
        ("/io/hidden/offset", json!(5 * 4096 + 1024), "prefill", "no launch writes its result"),
        ("/prefill/launches", json!([]), "prefill", "no launch writes its result"),
        ("/prefill/launches/0/vocab", json!(99), "prefill launch 0 (embed)", "99 rows"),
        ("/prefill/launches/0/scale", json!(1e200), "prefill launch 0 (embed)", "scale"),
        ("/prefill/launches/0/table/grouped/codes", json!(99), "prefill launch 0 (embed)", "parameter 99"),
        ("/prefill/launches/0/table/grouped/scales", json!(0), "prefill launch 0 (embed)", "shape"),
        ("/prefill/launches/0/table/grouped/format/bits", json!(0), "prefill launch 0 (embed)", "no such format"),
        ("/prefill/launches/0/table/grouped/format/group", json!(0), "prefill launch 0 (embed)", "no such format"),
        ("/prefill/launches/0/table/grouped/format/layout", json!("KN"), "prefill launch 0 (embed)", "KN"),
        ("/prefill/launches/0/table/grouped/format/scale", json!("float32"), "prefill launch 0 (embed)", "float32"),
        ("/prefill/launches/0/output/offset", json!(20 * 4096), "prefill launch 0 (embed)", "exceeds"),
        ("/prefill/launches/0/output/offset", json!(8 * 4096), "prefill launch 0 (embed)", "the numbers of the call"),
        ("/prefill/launches/1/output/columns", json!(63), "prefill launch 1 (norm)", "63 columns"),
        ("/prefill/launches/1/output/offset", json!(4096 + 768), "prefill launch 1 (norm)", "overlaps"),
        ("/prefill/launches/1/rows", json!("one"), "prefill launch 1 (norm)", "outside the head"),
        ("/prefill/launches/1/norm/weight", json!(3), "prefill launch 1 (norm)", "norm weight"),
        ("/prefill/launches/1/norm/bias", json!(2), "prefill launch 1 (norm)", "bias"),
        ("/prefill/launches/1/norm/epsilon", json!(-1.0), "prefill launch 1 (norm)", "epsilon"),
        ("/prefill/launches/2/out_features", json!(127), "prefill launch 2 (linear)", "127"),
        ("/prefill/launches/2/bias", json!(2), "prefill launch 2 (linear)", "the bias has shape"),
        ("/prefill/launches/2/input/columns", json!(96), "prefill launch 2 (linear)", "codes have shape"),
        ("/prefill/launches/2/scratch/bytes_per_token", json!(1 << 20), "prefill launch 2 (linear)", "scratch at"),
        ("/prefill/launches/2/scratch/offset", json!(2 * 4096), "prefill launch 2 (linear)", "overlaps"),
        ("/prefill/launches/2/output/offset", json!(2 * 4096), "prefill launch 2 (linear)", "overlaps"),
        ("/prefill/launches/3/layer", json!(1), "prefill launch 3 (rope_append)", "cache layer 1 of 1"),
        ("/prefill/launches/3/heads", json!(0), "prefill launch 3 (rope_append)", "heads is 0"),
        ("/prefill/launches/3/heads", json!(3), "prefill launch 3 (rope_append)", "3 heads over 2"),
        ("/prefill/launches/3/heads", json!(6), "prefill launch 3 (rope_append)", "columns of qkv"),
        ("/prefill/launches/3/kv_heads", json!(0), "prefill launch 3 (rope_append)", "kv_heads is 0"),
        ("/prefill/launches/3/order", json!("per_head"), "prefill launch 3 (rope_append)", "per head"),
        ("/prefill/launches/3/rotary", json!(15), "prefill launch 3 (rope_append)", "15 rotated"),
        ("/prefill/launches/3/rotary", json!(14), "prefill launch 3 (rope_append)", "8 pairs for 14"),
        ("/prefill/launches/3/rotary", json!(18), "prefill launch 3 (rope_append)", "18 rotated"),
        ("/prefill/launches/3/rope_table", json!(1), "prefill launch 3 (rope_append)", "rope table 1 of 1"),
        ("/prefill/launches/3/key_norm/weight", json!(2), "prefill launch 3 (rope_append)", "norm weight"),
        ("/prefill/launches/3/query/offset", json!(3 * 4096), "prefill launch 3 (rope_append)", "overlaps"),
        ("/prefill/launches/4/output/offset", json!(4 * 4096), "prefill launch 4 (attention)", "overlaps"),
        ("/prefill/launches/4/soft_cap", json!(0.0), "prefill launch 4 (attention)", "soft cap"),
        ("/prefill/launches/4/head_dim", json!(8), "prefill launch 4 (attention)", "kv heads of 8"),
        ("/prefill/launches/5/delta/offset", json!(4096), "prefill launch 5 (add_norm)", "overlaps"),
        ("/prefill/launches/5/delta/columns", json!(32), "prefill launch 5 (add_norm)", "32 columns"),
        ("/prefill/launches/5/post/1/offset", json!(4096), "prefill launch 5 (add_norm)", "overlaps"),
        ("/prefill/launches/6/output/columns", json!(96), "prefill launch 6 (linear)", "96 columns"),
        ("/prefill/launches/7/weight/dense", json!(2), "prefill launch 7 (linear)", "the weight has shape"),
        ("/prefill/launches/7/epilogue/add/columns", json!(32), "prefill launch 7 (linear)", "residual of 32"),
        ("/prefill/launches/7/epilogue/add/offset", json!(4096 + 256), "prefill launch 7 (linear)", "overlaps"),
        ("/prefill/launches/7/input/offset", json!(4096), "prefill launch 7 (linear)", "overlaps"),
        ("/head/launches/0/input/offset", json!(5 * 4096), "head launch 0 (norm)", "other than"),
        ("/head/launches/0/output/offset", json!(4096 + 256), "head launch 0 (norm)", "overlaps"),
        ("/head/launches/1/scratch/offset", json!(4096 + 256), "head launch 1 (linear)", "residual stream"),
        ("/head/launches/1/epilogue/soft_cap", json!(-1.0), "head launch 1 (linear)", "soft cap"),
        ("/head/launches/1/output/offset", json!(6 * 4096 + 1024), "head", "no launch writes its result"),
    ];
    for (pointer, value, place, problem) in cases {
        match with(&library(), pointer, value.clone()) {
            Ok(()) => assert!(place.is_empty(), "{pointer} = {value} is accepted"),
            Err(error) => assert!(
                error.place == place && error.problem.contains(problem) && !place.is_empty(),
                "{pointer} = {value}: {error}"
            ),
        }
    }
}

#[test]
fn keys_and_values_apart_are_checked() {
    let mut library = library();
    for function in [&mut library.prefill, &mut library.decode] {
        let Op::RopeAppend(op) = &mut function.launches[3].op else { panic!("launch 3") };
        op.qkv.columns = 64;
        op.apart = Some(KeyValueRows { keys: rows(5, 32), values: rows(6, 32) });
    }
    assert_eq!(library.validate(), Ok(()));
    for (field, value, problem) in [
        ("qkv/columns", json!(128), "128 columns of qkv"),
        ("apart/keys/columns", json!(64), "columns of keys and values"),
        ("apart/values/columns", json!(31), "columns of keys and values"),
        ("apart/values/offset", json!(4 * 4096), "overlaps"),
        ("query/offset", json!(5 * 4096), "overlaps"),
    ] {
        let error = with(&library, &format!("/prefill/launches/3/{field}"), value).expect_err(field);
        assert!(error.problem.contains(problem), "{field}: {error}");
    }
}

/// Operations that remember: what they name must be there, and be what they need.
#[test]
fn states_and_their_operations_are_checked() {
    let mut library = library();
    let mut add = |shape: &[u64]| {
        let id = parameter(&mut library.parameters, shape, DType::F16);
        library.memory.weights += library.parameters[id.0 as usize].bytes().unwrap();
        id
    };
    let (weight, each) = (add(&[64, 1, 3]), add(&[2]));
    let delta = StateLayer::Delta { heads: 2, key_dim: 8, value_dim: 16 };
    library.states = vec![StateLayer::Conv { channels: 64, taps: 3 }, delta];
    // With them the window of the layer is set aside: five positions of keys and values.
    let windows = library.kv_cache.iter().map(|layer| layer.bytes() / u64::from(layer.positions) * 5).sum::<u64>();
    library.memory.state = 2 * library.states.iter().map(StateLayer::bytes).sum::<u64>() + windows;
    let (start, gate_in, gate_out, bias, activation) = (0, Some(0), None, None, None);
    let (input, output) = (rows(4, 64), rows(5, 64));
    let conv = CausalConv { input, start, gate_in, gate_out, weight, bias, activation, taps: 3, state: 0, output };
    let norm = NormWeights { kind: NormKind::Rms, epsilon: 1e-6, weight: None, bias: None };
    let delta = GatedDelta {
        qkv: rows(4, 64),
        decay: rows(5, 2),
        write: rows(5, 2),
        gate: rows(3, 32),
        decay_log: each,
        decay_bias: each,
        norm,
        key_heads: 2,
        heads: 2,
        key_dim: 8,
        value_dim: 16,
        state: 1,
        output: rows(6, 32),
    };
    let first = library.prefill.launches.len();
    library.prefill.launches.extend([plain(Op::CausalConv(conv.clone())), plain(Op::GatedDelta(delta))]);
    assert_eq!(library.validate(), Ok(()));
    for (launch, field, value, problem) in [
        (0, "state", json!(2), "state 2 of 2"),
        (0, "state", json!(1), "is needed"),
        (0, "taps", json!(2), "is needed"),
        (0, "start", json!(1), "columns 1 to 65 of 64"),
        (0, "gate_in", json!(u32::MAX), "of 64"),
        (0, "weight", json!(each.0), "shape [2]"),
        (0, "output/columns", json!(32), "is needed"),
        (0, "output/offset", json!(4 * 4096), "overlaps"),
        (1, "state", json!(0), "is needed"),
        (1, "heads", json!(4), "is needed"),
        (1, "key_heads", json!(0), "key_heads"),
        (1, "key_heads", json!(3), "2 heads over 3 key heads"),
        (1, "qkv/columns", json!(63), "63"),
        (1, "gate/columns", json!(64), "64"),
        (1, "decay_log", json!(weight.0), "decay's logarithm"),
        (1, "output/offset", json!(3 * 4096), "overlaps"),
    ] {
        let pointer = format!("/prefill/launches/{}/{field}", first + launch);
        let error = with(&library, &pointer, value).expect_err(field);
        assert!(error.problem.contains(problem), "{field}: {error}");
    }
    for (pointer, value, problem) in [
        ("/states/0/taps", json!(1), "taps is 1"),
        ("/states/0/channels", json!(0), "channels"),
        ("/states/1/key_dim", json!(257), "key_dim is 257"),
        ("/memory/state", json!(8), "state is 8"),
    ] {
        let error = with(&library, pointer, value).expect_err(pointer);
        assert!(error.problem.contains(problem), "{pointer}: {error}");
    }
    library.head.launches.insert(0, plain(Op::CausalConv(conv)));
    assert!(library.validate().unwrap_err().problem.contains("the head has no state"));
}

#[test]
fn gpu_calls_are_checked() {
    for (pointer, value, problem) in [
        ("/kernels/kernels/0/threads", json!([64, 64, 64]), "work group"),
        ("/kernels/kernels/0/threads", json!([0, 1, 1]), "work group"),
        ("/kernels/kernels/0/name", json!("a b"), "identifier"),
        ("/kernels/source", json!(""), "source"),
        ("/kernels", json!(null), "holds none"),
        ("/target", json!("host"), "holds some"),
        ("/head/launches/0/gpu", json!(null), "names no kernel"),
        ("/head/launches/0/gpu/kernel", json!(1), "kernel 1 of 1"),
        ("/decode/launches/0/gpu/groups/2/count", json!(0), "grid axis"),
        ("/prefill/launches/0/gpu/groups/0/count", json!(u32::MAX), "grid axis"),
        ("/kernels/top/0/count", json!(65), "count of the most likely tokens is 65"),
        ("/kernels/top/0/gpu/groups/0/count", json!(65), "work groups over the logits is 65"),
        ("/kernels/top/0/gpu/then/groups/1/count", json!(0), "work groups over the logits is 0"),
        ("/kernels/top/0/gpu/then/kernel", json!(1), "kernel 1 of 1"),
        ("/kernels/top/0/gpu", json!(KernelCall { more: 1, ..top_call() }), "more than the logits"),
    ] {
        let error = with(&gpu_library(), pointer, value.clone()).expect_err(pointer);
        assert!(error.problem.contains(problem), "{pointer} = {value}: {error}");
    }
}

#[test]
fn a_kernel_executes_launches_that_follow_and_name_none() {
    let mut library = gpu_library();
    let count = library.decode.launches.len();
    let more = |library: &mut ModelLibrary, more: u32| library.decode.launches[0].gpu.as_mut().unwrap().more = more;
    more(&mut library, 1);
    let error = library.validate().unwrap_err();
    assert!(error.problem.contains("the one before executes it too"), "{error}");
    library.decode.launches[1].gpu = None;
    assert_eq!(library.validate(), Ok(()));
    assert_eq!(ModelLibrary::decode(&library.encode()).unwrap(), library);
    let executed: Vec<usize> = library.decode.calls().map(|(_, launches)| launches.len()).collect();
    assert_eq!(executed, [&[2][..], &vec![1; count - 2]].concat());
    more(&mut library, 0);
    assert!(library.validate().unwrap_err().problem.contains("names no kernel"));
    for wrong in [count as u32, u32::MAX] {
        more(&mut library, wrong);
        assert!(library.validate().unwrap_err().problem.contains("more launches of"));
    }
}

/// The pointers of every number, string and list below a value.
fn leaves(value: &Value, at: &str, list: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| leaves(value, &format!("{at}/{key}"), list)),
        Value::Array(items) => {
            list.push(at.to_owned());
            items.iter().enumerate().for_each(|(i, value)| leaves(value, &format!("{at}/{i}"), list));
        }
        _ => list.push(at.to_owned()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever numbers stand anywhere, validation answers; and what it accepts keeps every row in the arena.
    #[test]
    #[cfg_attr(miri, ignore = "two cases take more than ten minutes")]
    fn any_numbers_are_answered(edits in proptest::collection::vec((any::<prop::sample::Index>(), prop_oneof![
        Just(json!(0)), Just(json!(1)), Just(json!(u32::MAX)), Just(json!(u64::MAX)), Just(json!(u64::MAX - 255)),
        Just(json!(-1)), Just(json!(1e39)), Just(json!(null)), Just(json!([])), Just(json!([1, 2])), Just(json!("x")),
        (0u32..300).prop_map(|n| json!(n)), (0u64..64).prop_map(|n| json!(n * 256)), any::<u64>().prop_map(|n| json!(n)),
    ]), 1..4), gpu in any::<bool>()) {
        let mut json = serde_json::to_value(if gpu { gpu_library() } else { library() }).unwrap();
        let mut pointers = Vec::new();
        leaves(&json, "", &mut pointers);
        for (index, value) in edits {
            if let Some(place) = json.pointer_mut(index.get::<String>(&pointers)) {
                *place = value;
            }
        }
        if let Ok(library) = serde_json::from_value::<ModelLibrary>(json)
            && library.validate().is_ok()
        {
            let n = u64::from(library.model.prefill_chunk_size);
            for launch in &library.prefill.launches {
                for operand in launch.op.operands() {
                    if let Operand::Input(rows) | Operand::Output(rows) = operand {
                        prop_assert!(rows.offset + n * u64::from(rows.columns) * 4 <= library.memory.workspace);
                    }
                }
            }
        }
    }

    /// Damaged bytes never decode to anything but an error.
    #[test]
    fn damaged_blobs_are_refused(index in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<prop::sample::Index>()) {
        let blob = library().encode();
        let mut flipped = blob.clone();
        flipped[index.index(blob.len())] ^= 1 << bit;
        // Only the reserved word is without meaning.
        prop_assert!(ModelLibrary::decode(&flipped).is_err() || (12..16).contains(&index.index(blob.len())));
        prop_assert!(ModelLibrary::decode(&blob[..cut.index(blob.len())]).is_err());
    }
}
