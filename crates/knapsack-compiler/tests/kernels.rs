//! The kernels as text: snapshots for both languages, and what holds for all of them.

mod support;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_artifact::plan::*;
use knapsack_compiler::codegen::{emit, kernel_traffic};
use knapsack_tensor::{Activation, DType, Layout, NormKind};
use support::{Builder, Kind, grouped, llama};

const TARGETS: [Target; 2] = [Target::OpenCl, Target::Metal];

fn emitted(mut library: ModelLibrary, target: Target) -> ModelLibrary {
    emit(&mut library, target).expect("every launch has a kernel");
    library
}

/// The kernels of launches, and after them those that find the most likely tokens, without the parts that every library shares.
fn kernels_of(library: &ModelLibrary) -> (&str, &str) {
    let source = &library.kernels.as_ref().expect("emitted").source;
    let shared = source.find("\n// ---- Shared").expect("the shared part");
    let first = source[shared + 1..].find("\n// ---- ").expect("a kernel");
    let kernels = &source[shared + 1 + first..];
    kernels.split_at(kernels.find("\n// ---- the 1 most likely").expect("every library has them"))
}

/// Entry points and grids.
fn calls(library: &ModelLibrary) -> String {
    let mut text = String::new();
    let axis = |g: Groups| match g.tokens_per_group {
        0 => g.count.to_string(),
        per => format!("{} for every {per} tokens", g.count),
    };
    for (name, function) in [("prefill", &library.prefill), ("decode", &library.decode), ("head", &library.head)] {
        for (call, launches) in function.calls() {
            let kernel = &library.kernels.as_ref().expect("emitted").kernels[call.kernel as usize];
            let [x, y, _] = call.groups.map(axis);
            let names: Vec<_> = launches.iter().map(|launch| launch.op.name()).collect();
            let (op, threads) = (names.join(" + "), kernel.threads[0]);
            text += &format!("{name} {op}: {}, {threads} threads, groups {x} x {y}\n", kernel.name);
        }
    }
    text
}

fn snapshot(library: ModelLibrary, target: Target) -> String {
    let library = emitted(library, target);
    calls(&library) + kernels_of(&library).0
}

fn one(op: impl FnOnce(&mut Builder) -> Op) -> ModelLibrary {
    let mut builder = Builder::new(64);
    let op = op(&mut builder);
    builder.push(op);
    builder.library
}

#[test]
fn launches_of_a_llama() {
    let [opencl, metal] = TARGETS.map(|target| calls(&emitted(llama(128), target)));
    assert_eq!(opencl, metal);
    insta::assert_snapshot!(opencl);
}

#[test]
fn linear_kernels() {
    for target in TARGETS {
        let library = one(|b| b.linear(3072, 16384, grouped(4, Layout::Nk), Epilogue::Gated(Activation::Silu), false));
        insta::assert_snapshot!(format!("linear_q4_rows_{target:?}"), snapshot(library, target));
        let library = one(|b| b.linear(97, 37, grouped(3, Layout::Kn), Epilogue::SoftCap(30.0), true));
        insta::assert_snapshot!(format!("linear_q3_columns_{target:?}"), snapshot(library, target));
    }
}

#[test]
fn attention_kernels() {
    for target in TARGETS {
        insta::assert_snapshot!(format!("attention_window_{target:?}"), snapshot(one(windowed), target));
        insta::assert_snapshot!(format!("rope_head_norms_{target:?}"), snapshot(one(head_norms), target));
    }
}

#[test]
fn row_kernels() {
    for target in TARGETS {
        insta::assert_snapshot!(format!("add_norm_{target:?}"), snapshot(one(layer_norms), target));
    }
}

#[test]
fn top_kernels() {
    for target in TARGETS {
        insta::assert_snapshot!(format!("top_{target:?}"), kernels_of(&emitted(llama(128), target)).1);
    }
}

#[test]
fn equal_launches_share_a_kernel_and_the_source_is_the_same_every_time() {
    for target in TARGETS {
        let mut library = llama(128);
        let again = library.prefill.launches.clone();
        library.prefill.launches.extend(again);
        let library = emitted(library, target);
        let module = library.kernels.as_ref().unwrap();
        assert_eq!(*module, emitted(llama(128), target).kernels.unwrap());
        let mut names: Vec<_> = module.kernels.iter().map(|kernel| &kernel.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), module.kernels.len());
        // Back to a library for the host.
        let mut host = emitted(llama(128), target);
        emit(&mut host, Target::Host).unwrap();
        assert_eq!(host, llama(128));
    }
}

#[test]
fn projections_of_the_same_rows_share_a_launch() {
    let projections = |change: fn(&mut Linear)| {
        let mut builder = Builder::new(64);
        let input = builder.rows(96);
        for outputs in [64, 32, 48] {
            let Op::Linear(mut linear) = builder.linear(96, outputs, grouped(4, Layout::Nk), Epilogue::None, false)
            else {
                unreachable!("a linear layer was asked for")
            };
            linear.input = input;
            if outputs == 32 {
                change(&mut linear);
            }
            builder.push(Op::Linear(linear));
        }
        let library = emitted(builder.library, Target::Metal);
        let functions = [&library.prefill, &library.decode].into_iter();
        let executed = functions.map(|function| function.calls().map(|(_, launches)| launches.len()).collect());
        (executed.collect::<Vec<Vec<usize>>>(), library)
    };
    let (executed, together) = projections(|_| {});
    assert_eq!(executed, [[3], [3]]);
    // Its work groups are those of the three, one after the other.
    let (executed, apart) = projections(|linear| linear.epilogue = Epilogue::Activation(Activation::Silu));
    assert_eq!(executed, [[1, 1, 1], [1, 1, 1]]);
    for (together, apart) in [(&together.prefill, &apart.prefill), (&together.decode, &apart.decode)] {
        let groups = |function: &Function| function.calls().map(|(call, _)| call.groups[0].count).sum::<u32>();
        assert_eq!(groups(together), groups(apart));
    }
    let (executed, _) = projections(|linear| linear.input.offset += ALIGNMENT);
    assert_eq!(executed, [[1, 1, 1], [1, 1, 1]], "other rows");
    // And as many bytes are moved.
    let weights = |library: &ModelLibrary| kernel_traffic(library).iter().map(|row| row.moves.weights).sum::<u64>();
    assert_eq!(weights(&together), weights(&apart));
}

#[test]
fn the_languages_share_everything_but_their_prelude_and_signatures() {
    for (name, library) in samples() {
        let body = |target| {
            let library = emitted(library.clone(), target);
            let (of_launches, top) = kernels_of(&library);
            let lines = of_launches.lines().chain(top.lines()).filter(|line| {
                let signature = [
                    "__kernel",
                    "kernel void",
                    "void ",
                    "[[max",
                    "    __global",
                    "    WORDS_ARGUMENT",
                    "    MOVE(call)",
                    "    device",
                    "    const uint n,",
                    "    constant",
                    "    uint3 group_position",
                    "    uint thread_index",
                ];
                !signature.iter().any(|start| line.starts_with(start))
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(body(Target::OpenCl), body(Target::Metal), "{name}");
    }
}

#[test]
fn what_no_kernel_can_do_is_refused_with_its_place() {
    let mut library = one(windowed);
    library.kv_cache[0].dtype = DType::BF16;
    let before = library.clone();
    let error = emit(&mut library, Target::OpenCl).unwrap_err();
    assert_eq!(error.to_string(), "no kernel for prefill launch 0 (attention): a cache of bfloat16");
    assert_eq!(library, before);
    let wide = one(|b| {
        let layer = b.cache(1, 2048, 8, None);
        let (query, output) = (b.rows(2048), b.rows(2048));
        Op::Attention(Attention {
            query,
            heads: 1,
            kv_heads: 1,
            head_dim: 2048,
            scale: 1.0,
            soft_cap: None,
            layer,
            gate: None,
            output,
        })
    });
    let error = emit(&mut wide.clone(), Target::Metal).unwrap_err();
    assert_eq!(error.problem, "heads of 2048 elements, more than 1024");
}

#[test]
fn decode_reads_each_weight_once() {
    for target in TARGETS {
        let table = kernel_traffic(&emitted(llama(128), target));
        let linear = |row: &&knapsack_compiler::codegen::KernelTraffic| row.must.weights > 1 << 20;
        for function in ["decode", "head"] {
            let rows = table.iter().filter(|row| row.function == function);
            let (must, moves) = rows.fold((0, 0), |(must, moves), row| {
                (must + row.must.weights + row.must.cache, moves + row.moves.weights + row.moves.cache)
            });
            assert!(
                must > 1 << 20 && moves >= must && moves as f64 <= 1.02 * must as f64,
                "{function}: {moves} of {must}"
            );
        }
        // Prefill reads a weight once for every 64 tokens.
        for row in table.iter().filter(|row| row.function == "prefill").filter(linear) {
            assert!(row.ratio() <= 128.0 / 64.0 * 1.001, "{row:?}");
        }
        assert_eq!(table.iter().filter(|row| row.function == "decode").filter(linear).count(), 4);
    }
}

/// Every kernel source with every one of its switches.
fn samples() -> Vec<(&'static str, ModelLibrary)> {
    let linear = |k, n, kind, epilogue, bias| one(move |b| b.linear(k, n, kind, epilogue, bias));
    let rows = Rows { offset: 0, columns: 0 };
    vec![
        ("llama", llama(128)),
        ("q4_columns_gated", linear(96, 64, grouped(4, Layout::Kn), Epilogue::Gated(Activation::GeluTanh), true)),
        ("q4_columns_odd", linear(97, 37, grouped(4, Layout::Kn), Epilogue::Add(rows), false)),
        ("q3_columns", linear(80, 64, grouped(3, Layout::Kn), Epilogue::SoftCap(30.0), false)),
        ("q3_rows_odd", linear(81, 33, grouped(3, Layout::Nk), Epilogue::Activation(Activation::Gelu), true)),
        ("f16_odd", linear(33, 7, Kind::Dense(DType::F16), Epilogue::None, true)),
        ("f32", linear(64, 64, Kind::Dense(DType::F32), Epilogue::Gated(Activation::Relu), false)),
        ("bf16", linear(40, 64, Kind::Dense(DType::BF16), Epilogue::None, false)),
        ("layer_norms", one(layer_norms)),
        ("head_norms", one(head_norms)),
        ("windowed", one(windowed)),
        (
            "embed_f16",
            one(|b| {
                let table = b.weight(16, 33, Kind::Dense(DType::F16));
                Op::Embed(Embed { table, vocab: 16, scale: 2.5, output: b.rows(33) })
            }),
        ),
    ]
}

fn layer_norms(b: &mut Builder) -> Op {
    let mut layer = || {
        let (weight, bias) = (b.parameter(DType::BF16, &[33]), b.parameter(DType::F32, &[33]));
        NormWeights { kind: NormKind::Layer, epsilon: 1e-6, weight: Some(weight), bias: Some(bias) }
    };
    let (pre, post) = (layer(), layer());
    let residual = b.rows(33);
    Op::AddNorm(AddNorm {
        residual,
        delta: b.rows(33),
        pre: Some(pre),
        groups: 1,
        scale: None,
        sum: residual,
        post: Some((post, b.rows(33))),
    })
}

fn head_norms(b: &mut Builder) -> Op {
    let layer = b.cache(4, 40, 64, Some((32, 4)));
    let rope_rows = b.rows(16);
    b.library.rope_tables.push(RopeTable { frequencies: vec![1.0; 8], magnitude: 1.0, growth: None, rows: rope_rows });
    let norm =
        NormWeights { kind: NormKind::Layer, epsilon: 1e-5, weight: Some(b.parameter(DType::F16, &[160])), bias: None };
    Op::RopeAppend(RopeAppend {
        apart: None,
        qkv: b.rows(480),
        order: QkvOrder::PerHead,
        heads: 4,
        kv_heads: 4,
        head_dim: 40,
        rotary: 16,
        rope_table: 0,
        query_table: None,
        norm_place: NormPlace::Heads,
        query_norm: Some(norm),
        key_norm: Some(b.norm(40)),
        value_norm: None,
        layer,
        query: b.rows(160),
    })
}

fn windowed(b: &mut Builder) -> Op {
    let layer = b.cache(2, 20, 99, Some((32, 4)));
    let (query, output) = (b.rows(80), b.rows(80));
    Op::Attention(Attention {
        query,
        heads: 4,
        kv_heads: 2,
        head_dim: 20,
        scale: 0.25,
        soft_cap: Some(50.0),
        layer,
        gate: None,
        output,
    })
}
