//! The operations, each against a naive evaluation in double precision over drawn shapes.

use super::Instance;
use super::build::{Builder, Random, Storage};
use knapsack_artifact::plan::*;
use knapsack_tensor::{Activation, DType, GROUPINGS, Layout, NormKind};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Which error bound a case is held to.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Float32 throughout.
    Exact,
    /// Through a float16 cache.
    Cached,
    /// Through a grouped product, whose activations a device may quantize.
    Quantized,
    /// Through a grouped product, whose activations a device may keep in twice eight bits.
    Fine,
    /// Float32 throughout, through a recurrence that amplifies what is rounded.
    Recurrent,
}

pub(crate) fn check(
    instance: &Instance<'_>,
    kind: Kind,
    actual: &[Vec<f32>],
    expected: &[Vec<f64>],
    what: &str,
) -> Result<(), TestCaseError> {
    let bound = match kind {
        Kind::Exact => instance.bounds.exact,
        Kind::Cached => instance.bounds.cached,
        Kind::Quantized => instance.bounds.quantized,
        Kind::Fine => instance.bounds.quantized.min(3e-4).max(instance.bounds.exact),
        Kind::Recurrent => 3e-4,
    };
    prop_assert_eq!(actual.len(), expected.len());
    // Every operation is drawn to give values around 1: sums that happen to be near 0 are held to the same absolute error.
    let (mut error, mut size) = (0.0, 0.05 * expected.iter().map(Vec::len).sum::<usize>() as f64);
    for (a, e) in actual.iter().flatten().zip(expected.iter().flatten()) {
        error += (f64::from(*a) - e).powi(2);
        size += e * e;
    }
    let relative = (error / size).sqrt();
    prop_assert!(relative <= bound, "{}: {what}: relative error {relative:.2e} exceeds {bound:.0e}", instance.name);
    Ok(())
}

/// Runs a property with a fixed seed: the same cases for every device, every time. `KNAPSACK_CASES=20` leaves the first so many.
pub(crate) fn run<S: Strategy>(
    instance: &Instance<'_>,
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let most = std::env::var("KNAPSACK_CASES").map_or(instance.cases, |text| text.parse().expect("a number of cases"));
    let config = Config { failure_persistence: None, ..Config::with_cases(instance.cases.min(most)) };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    if let Err(error) = runner.run(&strategy, test) {
        panic!("{}: {error}", instance.name);
    }
}

fn storages() -> impl Strategy<Value = Storage> {
    let halves = prop_oneof![3 => Just(DType::F16), 1 => Just(DType::BF16)];
    let floats = prop_oneof![3 => halves.clone(), 1 => Just(DType::F32)];
    let layout = prop_oneof![Just(Layout::Nk), Just(Layout::Kn)];
    prop_oneof![
        3 => (prop::sample::select(GROUPINGS), layout, halves)
            .prop_map(|(grouping, layout, scale)| Storage::grouped(grouping.bits, layout, scale)),
        1 => floats.prop_map(Storage::Dense),
    ]
}

/// Token counts: one, a few, a full chunk.
fn token_counts() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), 2..=9usize, Just(32usize)]
}

pub(crate) fn tokens(random: &mut Random, count: usize, ids: u32) -> Vec<u32> {
    (0..count).map(|_| random.below(ids)).collect()
}

pub(crate) fn activations() -> impl Strategy<Value = Activation> {
    prop_oneof![Just(Activation::Silu), Just(Activation::Gelu), Just(Activation::GeluTanh), Just(Activation::Relu)]
}

pub(crate) fn activate(function: Activation, x: f64) -> f64 {
    match function {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::Relu => x.max(0.0),
        // The table of `Activation::Gelu` is single precision; its own error is far below any bound here.
        Activation::Gelu => f64::from(function.apply(x as f32)),
    }
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Nothing,
    Activation(Activation),
    Gated(Activation),
    Add,
    AddInPlace,
    Times(Activation),
    SoftCap,
    Scale,
}

fn endings() -> impl Strategy<Value = Ending> {
    prop_oneof![
        2 => Just(Ending::Nothing),
        1 => activations().prop_map(Ending::Activation),
        2 => activations().prop_map(Ending::Gated),
        1 => Just(Ending::Add),
        1 => Just(Ending::AddInPlace),
        1 => activations().prop_map(Ending::Times),
        1 => Just(Ending::SoftCap),
        1 => Just(Ending::Scale),
    ]
}

pub(crate) fn linear(instance: &Instance<'_>) {
    let columns = prop_oneof![1..=70usize, Just(128usize), 120..=300usize];
    let k = prop_oneof![1..=200usize, Just(64usize), Just(256usize), Just(640usize), 200..=700usize];
    let cases = (columns, k, storages(), endings(), any::<bool>(), token_counts(), any::<u64>());
    run(instance, cases, |(columns, k, storage, ending, biased, count, seed)| {
        linear_case(instance, (columns, k), storage, ending, biased, count, seed)
    });
    // More of a row than fits into local memory at once.
    let layouts = [Layout::Nk, Layout::Kn];
    let grouped = GROUPINGS.iter().flat_map(|of| layouts.map(|layout| Storage::grouped(of.bits, layout, DType::F16)));
    for (index, storage) in grouped.chain([Storage::Dense(DType::F16)]).enumerate() {
        let ending = if index % 2 == 0 { Ending::Nothing } else { Ending::Gated(Activation::Silu) };
        linear_case(instance, (80, 5400), storage, ending, false, 1, index as u64).unwrap();
        // More tokens than a tile has, and more rows.
        linear_case(instance, (132, 96), storage, ending, false, 70, index as u64).unwrap();
    }
}

fn linear_case(
    instance: &Instance<'_>,
    (columns, k): (usize, usize),
    storage: Storage,
    ending: Ending,
    biased: bool,
    count: usize,
    seed: u64,
) -> Result<(), TestCaseError> {
    let chunk = count.max(32) as u32;
    let mut b = Builder::new(chunk, 2 * chunk, seed);
    b.fine = seed % 2 == 1;
    let features = if matches!(ending, Ending::Gated(_)) { 2 * columns } else { columns };
    let ids = (columns as u32).max(1);
    let (input, x) = b.input(k as u32, ids);
    let residual = match ending {
        Ending::Add | Ending::AddInPlace => Some(b.input(columns as u32, ids)),
        Ending::Times(_) => Some(b.input(columns as u32 + 5, ids)),
        _ => None,
    };
    let matrix = b.matrix(features, k, storage);
    let bias = biased.then(|| {
        let values = b.random.normals(features);
        b.floats(&[features as u64], DType::F16, &values)
    });
    let output = match (&residual, ending) {
        (Some((rows, _)), Ending::AddInPlace) => *rows,
        _ => b.rows(columns as u32),
    };
    let epilogue = match ending {
        Ending::Nothing => Epilogue::None,
        Ending::Activation(function) => Epilogue::Activation(function),
        Ending::Gated(function) => Epilogue::Gated(function),
        Ending::Times(function) => {
            let other = residual.as_ref().expect("it was made").0;
            Epilogue::ActivationTimes { function, other, start: 5 }
        }
        Ending::SoftCap => Epilogue::SoftCap(1.5),
        Ending::Scale => Epilogue::Scale(0.125),
        Ending::Add | Ending::AddInPlace => Epilogue::Add(residual.as_ref().unwrap().0),
    };
    b.push(Op::Linear(Linear {
        input,
        weight: matrix.weight,
        out_features: features as u32,
        bias: bias.as_ref().map(|(id, _)| *id),
        epilogue,
        output,
    }));
    let tokens = tokens(&mut b.random, count, ids);
    let product = |token: usize, feature: usize| {
        let row = &matrix.values[feature * k..(feature + 1) * k];
        let sum: f64 = row.iter().zip(&x[token]).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        sum + bias.as_ref().map_or(0.0, |(_, values)| f64::from(values[feature]))
    };
    let expected: Vec<Vec<f64>> = tokens
        .iter()
        .map(|&token| {
            let token = token as usize;
            let one = |c: usize| match ending {
                Ending::Nothing => product(token, c),
                Ending::Activation(function) => activate(function, product(token, c)),
                Ending::Gated(function) => activate(function, product(token, c)) * product(token, columns + c),
                Ending::Times(function) => {
                    let other = f64::from(residual.as_ref().unwrap().1[token][5 + c]);
                    activate(function, product(token, c)) * other
                }
                Ending::SoftCap => 1.5 * (product(token, c) / 1.5).tanh(),
                Ending::Scale => 0.125 * product(token, c),
                Ending::Add | Ending::AddInPlace => {
                    product(token, c) + f64::from(residual.as_ref().unwrap().1[token][c])
                }
            };
            (0..columns).map(one).collect()
        })
        .collect();
    let grouped = if b.fine { Kind::Fine } else { Kind::Quantized };
    let sample = b.finish(output);
    let kind = if let Storage::Grouped(_) = storage { grouped } else { Kind::Exact };
    // A handful of outputs is no sample of the error: single ones may be near zero.
    if columns * count.min(columns) < 64 && matches!(kind, Kind::Quantized | Kind::Fine) {
        instance.run(&sample, &tokens, chunk);
        return Ok(());
    }
    check(
        instance,
        kind,
        &instance.run(&sample, &tokens, chunk),
        &expected,
        &format!("{columns} x {k} {storage:?} {ending:?}, {count} tokens"),
    )
}

pub(crate) fn embed(instance: &Instance<'_>) {
    let cases = (1..=300usize, storages(), token_counts(), 0u32..20, any::<u64>());
    run(instance, cases, |(columns, storage, count, more, seed)| {
        let mut b = Builder::new(32, 64, seed);
        let vocab = columns + more as usize;
        let table = b.matrix(vocab, columns, storage.row_major());
        let output = b.rows(columns as u32);
        b.push(Op::Embed(Embed { table: table.weight, vocab: vocab as u32, scale: 1.25, output }));
        let tokens = tokens(&mut b.random, count, columns as u32);
        let row = |&token: &u32| table.values[token as usize * columns..(token as usize + 1) * columns].iter();
        let expected: Vec<Vec<f64>> = tokens.iter().map(|t| row(t).map(|x| 1.25 * f64::from(*x)).collect()).collect();
        let sample = b.finish(output);
        check(
            instance,
            Kind::Exact,
            &instance.run(&sample, &tokens, 32),
            &expected,
            &format!("{vocab} x {columns} {storage:?}"),
        )
    });
}

pub(crate) fn normalized(kind: NormKind, x: &[f64], weight: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
    let count = x.len() as f64;
    let mean = if kind == NormKind::Layer { x.iter().sum::<f64>() / count } else { 0.0 };
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let factor = 1.0 / (variance + 1e-5).sqrt();
    let scaled = x.iter().zip(weight).map(|(x, w)| (x - mean) * factor * f64::from(*w));
    scaled.enumerate().map(|(i, y)| y + bias.map_or(0.0, |b| f64::from(b[i]))).collect()
}

fn kinds() -> impl Strategy<Value = NormKind> {
    prop_oneof![Just(NormKind::Rms), Just(NormKind::Layer)]
}

pub(crate) fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|x| f64::from(*x)).collect()
}

pub(crate) fn norm(instance: &Instance<'_>) {
    let dtypes = prop_oneof![Just(DType::F16), Just(DType::BF16), Just(DType::F32)];
    run(
        instance,
        (2..=700usize, kinds(), dtypes, token_counts(), any::<u64>()),
        |(columns, kind, dtype, count, seed)| {
            let mut b = Builder::new(32, 64, seed);
            let (input, x) = b.input(columns as u32, columns as u32);
            let (norm, weight, bias) = b.norm(kind, columns, dtype);
            let output = b.rows(columns as u32);
            b.push(Op::Norm(Norm { input, rows: RowSelect::All, norm, output }));
            let tokens = tokens(&mut b.random, count, columns as u32);
            let expected: Vec<Vec<f64>> =
                tokens.iter().map(|&t| normalized(kind, &wide(&x[t as usize]), &weight, bias.as_deref())).collect();
            let sample = b.finish(output);
            check(instance, Kind::Exact, &instance.run(&sample, &tokens, 32), &expected, &format!("{columns} {kind:?}"))
        },
    );
}

pub(crate) fn add_norm(instance: &Instance<'_>) {
    let cases = (2..=300usize, kinds(), any::<[bool; 4]>(), 1..4usize, token_counts(), any::<u64>());
    run(instance, cases, |(width, kind, [pre, post, in_place, scaled], groups, count, seed)| {
        let (post, scaled, groups) = (post && groups == 1, scaled && groups == 1, if pre { groups } else { 1 });
        let columns = width * groups;
        let mut b = Builder::new(32, 64, seed);
        let (residual, r) = b.input(columns as u32, columns as u32);
        let (delta, d) = b.input(columns as u32, columns as u32);
        let [pre, post] = [pre, post].map(|some| some.then(|| b.norm(kind, width, DType::F16)));
        let scale = scaled.then(|| b.floats(&[1], DType::F16, &[0.7]));
        let factor = scale.as_ref().map_or(1.0, |(_, values)| f64::from(values[0]));
        let sum = if in_place { residual } else { b.rows(columns as u32) };
        let output = b.rows(columns as u32);
        b.push(Op::AddNorm(AddNorm {
            residual,
            delta,
            pre: pre.as_ref().map(|(norm, ..)| *norm),
            groups: groups as u32,
            scale: scale.as_ref().map(|(id, _)| *id),
            sum,
            post: post.as_ref().map(|(norm, ..)| (*norm, output)),
        }));
        let tokens = tokens(&mut b.random, count, columns as u32);
        let sums: Vec<Vec<f64>> = tokens
            .iter()
            .map(|&t| {
                let delta = wide(&d[t as usize]);
                let delta = match &pre {
                    Some((_, weight, bias)) => {
                        delta.chunks(width).flat_map(|part| normalized(kind, part, weight, bias.as_deref())).collect()
                    }
                    None => delta,
                };
                wide(&r[t as usize]).iter().zip(delta).map(|(a, b)| factor * (a + b)).collect()
            })
            .collect();
        let what = format!("{columns} {kind:?}, pre {}, post {}, in place {in_place}", pre.is_some(), post.is_some());
        let (result, expected) = match &post {
            Some((_, weight, bias)) => {
                (output, sums.iter().map(|row| normalized(kind, row, weight, bias.as_deref())).collect())
            }
            None => (sum, sums),
        };
        let sample = b.finish(result);
        check(instance, Kind::Exact, &instance.run(&sample, &tokens, 32), &expected, &what)
    });
}

/// One attention layer of a drawn shape.
#[derive(Clone, Debug)]
struct Heads {
    kv_heads: u32,
    group: u32,
    dim: u32,
    rotary: u32,
    order: QkvOrder,
    apart: bool,
    /// 0: none; 1: weights of one head; 2: of all heads; 3: over all heads; 4: weights of one head, after the rotation.
    norms: u32,
    /// Whether queries have a rotary table of their own, which grows with the position.
    grows: bool,
    window: Option<(u32, u32)>,
    soft_cap: Option<f32>,
    /// 0: no gates; 1: one for each head; 2: one for each element.
    gates: u32,
    cache: DType,
    chunk: u32,
    count: usize,
    seed: u64,
}

fn heads() -> impl Strategy<Value = Heads> {
    let dims =
        prop_oneof![Just(32u32), Just(64), Just(80), Just(96), Just(128), Just(256), (1..40u32).prop_map(|d| 2 * d)];
    let shape = (1..=3u32, prop_oneof![Just(1u32), 2..=5u32, Just(12)], dims, 0..=2u32, 0..5u32, (0..5u32, 0..3u32));
    let window = prop_oneof![2 => Just(None), 3 => (1..40u32, 0..6u32).prop_map(Some)];
    let soft_cap = prop_oneof![2 => Just(None), 1 => Just(Some(2.0f32))];
    let cache = prop_oneof![3 => Just(DType::F16), 1 => Just(DType::F32)];
    let calls = (prop_oneof![Just(1u32), 2..=40u32], 1..=90usize, any::<u64>());
    (shape, window, soft_cap, cache, calls).prop_map(|(shape, window, soft_cap, cache, (chunk, count, seed))| {
        let (kv_heads, group, dim, rotary, order, (norms, gates)) = shape;
        let per_head = order == 0;
        Heads {
            kv_heads,
            group: if per_head { 1 } else { group },
            dim,
            rotary: [0, dim / 4 * 2, dim][rotary as usize],
            order: match order {
                0 => QkvOrder::PerHead,
                4 => QkvOrder::Gated,
                _ => QkvOrder::Sections,
            },
            apart: order == 1,
            // A norm over all heads is of neighbouring ones.
            norms: if matches!(order, 0 | 4) && norms == 3 { 1 } else { norms },
            grows: rotary == 2 && seed % 3 == 0,
            window,
            soft_cap,
            gates,
            cache,
            chunk,
            count,
            seed,
        }
    })
}

/// What a token's projection holds: queries, keys, values by heads.
struct Projected {
    queries: Vec<Vec<f64>>,
    keys: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
}

fn rotated(x: &[f64], position: usize, frequencies: &[f32], magnitude: f32) -> Vec<f64> {
    let half = frequencies.len();
    let mut y = x.to_vec();
    for (i, frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
        let (sin, cos) = (sin * f64::from(magnitude), cos * f64::from(magnitude));
        y[i] = x[i] * cos - x[i + half] * sin;
        y[i + half] = x[i + half] * cos + x[i] * sin;
    }
    y
}

fn attend(h: &Heads, scale: f32, all: &[Projected], position: usize, head: usize) -> Vec<f64> {
    let kv_head = head / h.group as usize;
    let query = &all[position].queries[head];
    let seen: Vec<usize> = (0..=position)
        .filter(|&j| match h.window {
            None => true,
            Some((window, sinks)) => j + window as usize > position || j < sinks as usize,
        })
        .collect();
    let scores: Vec<f64> = seen
        .iter()
        .map(|&j| f64::from(scale) * query.iter().zip(&all[j].keys[kv_head]).map(|(a, b)| a * b).sum::<f64>())
        .map(|s| h.soft_cap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh()))
        .collect();
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut output = vec![0.0; h.dim as usize];
    for (&j, weight) in seen.iter().zip(&weights) {
        for (o, v) in output.iter_mut().zip(&all[j].values[kv_head]) {
            *o += weight / total * v;
        }
    }
    output
}

pub(crate) fn attention(instance: &Instance<'_>) {
    run(instance, heads(), |h| {
        let (kv_heads, heads, dim) = (h.kv_heads, h.kv_heads * h.group, h.dim);
        let mut b = Builder::new(h.chunk, 128, h.seed);
        let ids = heads * dim;
        let (q_columns, kv_columns) = (heads * dim, kv_heads * dim);
        let gated = h.order == QkvOrder::Gated;
        let columns = match (h.apart, gated) {
            (true, _) => q_columns,
            (false, true) => 2 * (q_columns + kv_columns),
            (false, false) => q_columns + 2 * kv_columns,
        };
        let (qkv, x) = b.input(columns, ids);
        let (gate, gate_rows) = match h.gates {
            0 => (None, None),
            2 if gated => (Some(HeadGate { rows: qkv, start: dim, stride: 2 * dim, width: dim }), None),
            wide => {
                let width = if wide == 2 { dim } else { 1 };
                let (rows, values) = b.input(heads * width + 3, ids);
                (Some(HeadGate { rows, start: 3, stride: width, width }), Some(values))
            }
        };
        let apart = h.apart.then(|| [b.input(kv_columns, ids), b.input(kv_columns, ids)]);
        let place = match h.norms {
            3 => NormPlace::Row,
            4 => NormPlace::Rotated,
            _ => NormPlace::Heads,
        };
        let growth = h.grows.then_some(Growth { beta: 0.3, original: 7 });
        let frequencies: Vec<f32> = (0..h.rotary / 2).map(|i| 0.7f32.powi(i as i32)).collect();
        if h.rotary > 0 {
            let rows = b.rows(h.rotary);
            b.library.rope_tables.push(RopeTable {
                frequencies: frequencies.clone(),
                magnitude: 1.1,
                growth: None,
                rows,
            });
        }
        if h.grows {
            let rows = b.rows(h.rotary);
            b.library.rope_tables.push(RopeTable { frequencies: frequencies.clone(), magnitude: 1.1, growth, rows });
        }
        let norms: Vec<_> = [heads, kv_heads]
            .into_iter()
            .map(|count| match h.norms {
                0 => None,
                1 | 4 => Some(b.norm(NormKind::Rms, dim as usize, DType::F16)),
                3 => Some(b.norm(NormKind::Rms, (count * dim) as usize, DType::F16)),
                _ => Some(b.norm(NormKind::Layer, (count * dim) as usize, DType::F16)),
            })
            .collect();
        let positions = h.window.map_or(128, |(window, sinks)| 128.min(sinks + window + h.chunk - 1).max(sinks + 1));
        let (window, sinks) = h.window.unzip();
        let sinks = sinks.unwrap_or(0);
        b.library.kv_cache.push(KvLayer { kv_heads, head_dim: dim, positions, window, sinks, dtype: h.cache });
        let (query, output) = (b.rows(q_columns), b.rows(q_columns));
        let value_norm =
            (h.seed % 2 == 0).then_some(NormWeights { kind: NormKind::Rms, epsilon: 1e-5, weight: None, bias: None });
        b.push(Op::RopeAppend(RopeAppend {
            qkv,
            apart: apart.as_ref().map(|[k, v]| KeyValueRows { keys: k.0, values: v.0 }),
            order: h.order,
            heads,
            kv_heads,
            head_dim: dim,
            rotary: h.rotary,
            rope_table: 0,
            query_table: h.grows.then_some(1),
            norm_place: place,
            query_norm: norms[0].as_ref().map(|(norm, ..)| *norm),
            key_norm: norms[1].as_ref().map(|(norm, ..)| *norm),
            value_norm,
            layer: 0,
            query,
        }));
        let scale = 1.0 / (dim as f32).sqrt();
        let soft_cap = h.soft_cap;
        b.push(Op::Attention(Attention {
            query,
            heads,
            kv_heads,
            head_dim: dim,
            scale,
            soft_cap,
            layer: 0,
            gate,
            output,
        }));
        let tokens = tokens(&mut b.random, h.count, ids);
        let project = |position: usize, token: usize| {
            let part = |section: usize, index: usize| {
                let (row, at) = match (&apart, h.order, section) {
                    (_, QkvOrder::PerHead, _) => (&x[token], 3 * index + section),
                    (_, QkvOrder::Gated, _) => {
                        let (heads, kv_heads) = (heads as usize, kv_heads as usize);
                        (&x[token], [2 * index, 2 * heads + index, 2 * heads + kv_heads + index][section])
                    }
                    (_, _, 0) => (&x[token], index),
                    (Some(apart), ..) => (&apart[section - 1].1[token], index),
                    (None, ..) => (&x[token], [0, heads, heads + kv_heads][section] as usize + index),
                };
                wide(&row[at * dim as usize..(at + 1) * dim as usize])
            };
            // Head `index`, out of what its norm is over.
            let normed = |section: usize, index: usize, y: Vec<f64>| {
                let Some((norm, weight, bias)) = &norms[section] else { return y };
                let dim = dim as usize;
                let at = if weight.len() == dim { 0 } else { index * dim };
                if place == NormPlace::Row {
                    let row: Vec<f64> = (0..weight.len() / dim).flat_map(|index| part(section, index)).collect();
                    return normalized(norm.kind, &row, weight, bias.as_deref())[at..at + dim].to_vec();
                }
                normalized(norm.kind, &y, &weight[at..at + dim], bias.as_ref().map(|b| &b[at..at + dim]))
            };
            let prepared = |section: usize, index: usize| {
                let factor = if section == 0 { growth.map_or(1.0, |growth| growth.at(position as u32)) } else { 1.0 };
                let turned = |y: Vec<f64>| rotated(&y, position, &frequencies, 1.1 * factor);
                let y = part(section, index);
                match place {
                    NormPlace::Rotated => normed(section, index, turned(y)),
                    NormPlace::Heads | NormPlace::Row => turned(normed(section, index, y)),
                }
            };
            Projected {
                queries: (0..heads as usize).map(|i| prepared(0, i)).collect(),
                keys: (0..kv_heads as usize).map(|i| prepared(1, i)).collect(),
                values: (0..kv_heads as usize)
                    .map(|i| part(2, i))
                    .map(|v| match value_norm {
                        Some(_) => normalized(NormKind::Rms, &v, &vec![1.0; dim as usize], None),
                        None => v,
                    })
                    .collect(),
            }
        };
        let all: Vec<Projected> = tokens.iter().enumerate().map(|(p, &t)| project(p, t as usize)).collect();
        let expected: Vec<Vec<f64>> = (0..h.count)
            .map(|position| {
                let token = tokens[position] as usize;
                let gate_of = |head: usize, i: usize| {
                    let Some(HeadGate { start, stride, width, .. }) = gate else { return 1.0 };
                    let row = gate_rows.as_ref().map_or(&x[token], |rows| &rows[token]);
                    let at = (start + head as u32 * stride) as usize + if width > 1 { i } else { 0 };
                    1.0 / (1.0 + (-f64::from(row[at])).exp())
                };
                let gated = |head: usize| {
                    let attended = attend(&h, scale, &all, position, head).into_iter().enumerate();
                    attended.map(|(i, x)| x * gate_of(head, i)).collect::<Vec<_>>()
                };
                (0..heads as usize).flat_map(gated).collect()
            })
            .collect();
        let sample = b.finish(output);
        let kind = if h.cache == DType::F32 { Kind::Exact } else { Kind::Cached };
        check(instance, kind, &instance.run(&sample, &tokens, h.chunk), &expected, &format!("{h:?}"))
    });
}

/// Wrong calls are refused with a value, and the model goes on.
pub(crate) fn wrong_calls(instance: &Instance<'_>) {
    let mut b = Builder::new(4, 8, 1);
    let (rows, table) = b.input(16, 16);
    let sample = b.finish(rows);
    let library = (instance.prepare)(&sample.library);
    let mut model = instance.device.load(library, sample.folder.path()).unwrap();
    let mut logits = vec![0.0; 16];
    assert!(model.logits(0, &mut logits).is_err(), "{}: no call yet", instance.name);
    let wrong: [(&[u32], u32); 5] = [(&[], 0), (&[1; 5], 0), (&[16], 0), (&[1], 8), (&[1, 2], u32::MAX)];
    for (tokens, position) in wrong {
        assert!(model.forward(tokens, position).is_err(), "{}: {tokens:?} at {position}", instance.name);
    }
    model.forward(&[3, 5], 6).unwrap();
    assert!(model.logits(2, &mut logits).is_err());
    assert!(model.logits(0, &mut logits[..15]).is_err());
    model.logits(1, &mut logits).unwrap();
    let largest = logits.iter().zip(&table[5]).map(|(a, b)| (a * (1u64 << 20) as f32 - b).abs()).fold(0.0, f32::max);
    assert!(largest <= 1e-4, "{}: {largest}", instance.name);
}

/// The most likely tokens are those of the logits, of equal ones the lower first; what is no number is none.
pub(crate) fn top(instance: &Instance<'_>) {
    for columns in [5u32, 130, 700, 1300] {
        let mut b = Builder::new(4, 8, 1);
        // Few different values, so that many are equal; and a row without any.
        let value = |i: u32| if i / columns == 3 { f32::NAN } else { (i % 1009 * 7919 % 13) as f32 - 6.0 };
        let values: Vec<f32> = (0..columns * columns).map(value).collect();
        let (id, _) = b.floats(&[u64::from(columns); 2], DType::F16, &values);
        let output = b.rows(columns);
        b.push(Op::Embed(Embed { table: Weight::Dense(id), vocab: columns, scale: 1.0, output }));
        let sample = b.finish(output);
        let library = (instance.prepare)(&sample.library);
        let mut model = instance.device.load(library, sample.folder.path()).unwrap();
        let most = model.most_likely();
        let mut logits = vec![0.0; columns as usize];
        for (tokens, position) in [(&[0, 1, 2, 3][..], 0), (&[1], 4), (&[3], 5)] {
            model.forward(tokens, position).unwrap();
            for row in 0..tokens.len() as u32 {
                model.logits(row, &mut logits).unwrap();
                let mut expected: Vec<(u32, f32)> =
                    (0..).zip(logits.iter().copied()).filter(|(_, v)| !v.is_nan()).collect();
                expected.sort_by(|(a, x), (b, y)| y.partial_cmp(x).expect("numbers").then(a.cmp(b)));
                for count in [1, 2, 7, most].into_iter().filter(|count| (1..=most).contains(count)) {
                    let wanted = &expected[..expected.len().min(count as usize)];
                    assert_eq!(model.top(row, count).unwrap(), wanted, "{}: {count} of {columns}", instance.name);
                }
            }
        }
        assert!(model.top(0, most + 1).is_err() && model.top(0, 0).is_err() && model.top(1, 1).is_err());
    }
}
