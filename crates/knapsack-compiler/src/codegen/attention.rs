//! Kernels of [`RopeAppend`] and [`Attention`].

use super::module::{Specialization, Template, element, fixed, per_tokens};
use super::rows::check_indexable;
use super::{Tokens, parameter};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::{
    Attention, HeadGate, KvLayer, NormPlace, NormWeights, ParameterId, QkvOrder, RopeAppend, RopeQuery, Scratch,
};
use knapsack_tensor::{DType, NormKind};

/// Threads of an attention work group.
const THREADS: u32 = 128;
/// Positions of a block of `attention_decode` and of a tile of `attention_prefill`.
const BLOCK: u32 = 32;
/// Largest head: 8 elements for each thread of a work group.
const MAX_HEAD_DIM: u32 = 8 * THREADS;
/// Local memory that `attention_decode` may use; devices in the field have at least 16 KiB.
const MAX_LOCAL_BYTES: u32 = 16 << 10;
/// Most query heads of a work group of `attention_decode`: each takes 16 registers of every thread.
const MOST_HEADS: u32 = 7;
/// Most fours of elements of heads that a thread of `attention_prefill` has: each takes 8 registers.
const MOST_FOURS: u32 = 8;

fn kv_layer(library: &ModelLibrary, layer: u32, kv_heads: u32, head_dim: u32) -> Result<&KvLayer, String> {
    let kv = library.kv_cache.get(layer as usize).ok_or_else(|| format!("there is no cache layer {layer}"))?;
    if (kv.kv_heads, kv.head_dim) != (kv_heads, head_dim) {
        let found = (kv.kv_heads, kv.head_dim);
        return Err(format!("cache layer {layer} has heads x elements {found:?}, not {:?}", (kv_heads, head_dim)));
    }
    if !matches!(kv.dtype, DType::F16 | DType::F32) {
        return Err(format!("a cache of {}", kv.dtype));
    }
    if kv.window == Some(0) || kv.positions <= kv.sinks {
        return Err(format!("a cache of {} positions, {} sinks, window {:?}", kv.positions, kv.sinks, kv.window));
    }
    check_indexable("the cache", kv.elements())?;
    Ok(kv)
}

fn check_heads(heads: u32, kv_heads: u32, head_dim: u32) -> Result<(), String> {
    if kv_heads == 0 || head_dim == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(format!("{heads} heads, {kv_heads} kv heads, {head_dim} elements"));
    }
    if head_dim > MAX_HEAD_DIM {
        return Err(format!("heads of {head_dim} elements, more than {MAX_HEAD_DIM}"));
    }
    Ok(())
}

fn define_cache(kernel: &mut Specialization, kv: &KvLayer, heads: u32) -> Result<&'static str, String> {
    kernel.define("HEADS", format!("{heads}u"));
    kernel.define("KV_HEADS", format!("{}u", kv.kv_heads));
    kernel.define("HEAD_DIM", format!("{}u", kv.head_dim));
    kernel.define("POSITIONS", format!("{}u", kv.positions));
    kernel.define("SINKS", format!("{}u", kv.sinks));
    let (element, suffix) = element(kv.dtype)?;
    kernel.define("LOAD_KV(p, i)", format!("LOAD_{suffix}(p, i)"));
    kernel.define("LOAD8_KV(p, i)", format!("LOAD8_{suffix}(p, i)"));
    kernel.define("STORE_KV(p, i, v)", format!("STORE_{suffix}(p, i, v)"));
    Ok(element)
}

/// Elements between the weights of two heads: 0 when the heads share them.
fn norm_stride(library: &ModelLibrary, id: ParameterId, heads: u32, head_dim: u32) -> Result<u32, String> {
    let elements: u64 = parameter(library, id)?.shape.iter().product();
    match elements {
        e if e == u64::from(head_dim) => Ok(0),
        e if e == u64::from(heads) * u64::from(head_dim) => Ok(head_dim),
        e => Err(format!("{e} norm weights for {heads} heads of {head_dim} elements")),
    }
}

/// The side of a projection that a normalization belongs to, with the names it has in the template.
struct Side {
    prefix: &'static str,
    /// 0 for queries, 1 for keys.
    kind: u32,
    place: NormPlace,
    heads: u32,
    weight: &'static str,
    bias: &'static str,
}

fn head_norm(
    kernel: &mut Specialization,
    library: &ModelLibrary,
    norm: Option<&NormWeights>,
    side: &Side,
    head_dim: u32,
) -> Result<(), String> {
    let prefix = side.prefix;
    kernel.flag(&format!("HAS_{prefix}_NORM"), norm.is_some());
    let Some(norm) = norm else { return Ok(()) };
    let normalize = match (side.place, norm.kind) {
        (NormPlace::Row, _) => format!("NORMALIZE_ROW(head, epsilon, {}u, {}u)", side.heads, side.kind),
        (_, NormKind::Rms) => "NORMALIZE_HEAD_RMS(head, epsilon)".to_owned(),
        (_, NormKind::Layer) => "NORMALIZE_HEAD_LAYER(head, epsilon)".to_owned(),
    };
    kernel.define(format!("{prefix}_NORMALIZE(head, epsilon)"), normalize);
    kernel.define_float(&format!("{prefix}_EPSILON"), norm.epsilon);
    let mut scaled = "(v)".to_owned();
    if let Some(id) = norm.weight {
        let stride = norm_stride(library, id, side.heads, head_dim)?;
        kernel.parameter(library, id, side.weight, &format!("LOAD_{prefix}_WEIGHT"))?;
        scaled = format!("({scaled} * LOAD_{prefix}_WEIGHT({}, (h) * {stride}u + (i)))", side.weight);
    }
    if let Some(id) = norm.bias {
        let stride = norm_stride(library, id, side.heads, head_dim)?;
        kernel.parameter(library, id, side.bias, &format!("LOAD_{prefix}_BIAS"))?;
        scaled = format!("({scaled} + LOAD_{prefix}_BIAS({}, (h) * {stride}u + (i)))", side.bias);
    }
    kernel.define(format!("{prefix}_SCALED(v, h, i)"), scaled);
    // A work group has one head: of the queries, the keys, or values that are not normalized.
    let elements = [norm.weight, norm.bias].into_iter().flatten();
    let bytes = elements
        .map(|id| Ok(u64::from(head_dim) * parameter(library, id)?.dtype.size()))
        .sum::<Result<u64, String>>()?;
    kernel.reads.weights = kernel.reads.weights.max(bytes);
    Ok(())
}

pub(super) fn rope_append(library: &ModelLibrary, op: &RopeAppend) -> Result<Specialization, String> {
    check_heads(op.heads, op.kv_heads, op.head_dim)?;
    let kv = kv_layer(library, op.layer, op.kv_heads, op.head_dim)?;
    if op.rotary > op.head_dim || !op.rotary.is_multiple_of(2) {
        return Err(format!("{} rotated elements of {}", op.rotary, op.head_dim));
    }
    if op.order == QkvOrder::PerHead && op.heads != op.kv_heads {
        return Err(format!("{} heads with {} kv heads, interleaved", op.heads, op.kv_heads));
    }
    let slots = op.heads + 2 * op.kv_heads;
    check_indexable(
        "the input",
        u64::from(library.model.prefill_chunk_size) * u64::from(slots) * u64::from(op.head_dim),
    )?;
    let threads = (op.head_dim / 2).next_power_of_two().clamp(32, THREADS);
    let summary = format!("rotation and cache, {} + 2 x {} heads of {}", op.heads, op.kv_heads, op.head_dim);
    let groups = [fixed(slots), per_tokens(1), fixed(1)];
    let mut kernel = Specialization::new(Template::RopeAppend, summary, threads, groups);
    let element = define_cache(&mut kernel, kv, op.heads)?;
    kernel.define("ROTARY", format!("{}u", op.rotary));
    kernel.define("PROJECTED(t, kind, h, i)", projected(op));
    kernel.input("qkv", "float");
    if op.apart.is_some() {
        kernel.input("key_rows", "float");
        kernel.input("value_rows", "float");
    }
    let place = op.norm_place;
    let normed_row = place == NormPlace::Row && (op.query_norm.is_some() || op.key_norm.is_some());
    kernel.reads.inputs = 4 * u64::from(op.head_dim) * if normed_row { 1 + u64::from(op.heads) } else { 1 };
    if op.rotary > 0 {
        kernel.input("rope", "float");
    }
    if op.query_table.is_some() {
        kernel.input("query_rope", "float");
    }
    let load = |table: &str| format!("LOAD_F32({table}, (at))");
    kernel.define(
        "ROPE(kind, at)",
        match op.query_table {
            None => load("rope"),
            Some(_) => format!("((kind) == 0 ? {} : {})", load("query_rope"), load("rope")),
        },
    );
    kernel.flag("NORM_ROTATED", place == NormPlace::Rotated);
    let query = Side { prefix: "QUERY", kind: 0, place, heads: op.heads, weight: "query_weight", bias: "query_bias" };
    head_norm(&mut kernel, library, op.query_norm.as_ref(), &query, op.head_dim)?;
    let key = Side { prefix: "KEY", kind: 1, place, heads: op.kv_heads, weight: "key_weight", bias: "key_bias" };
    head_norm(&mut kernel, library, op.key_norm.as_ref(), &key, op.head_dim)?;
    let value = Side { prefix: "VALUE", kind: 2, place, heads: op.kv_heads, weight: "", bias: "" };
    head_norm(&mut kernel, library, op.value_norm.as_ref(), &value, op.head_dim)?;
    kernel.output("query", "float");
    kernel.output("keys", element);
    kernel.output("values", element);
    Ok(kernel)
}

pub(super) fn rope_query(library: &ModelLibrary, op: &RopeQuery) -> Result<Specialization, String> {
    check_heads(op.heads, op.heads, op.head_dim)?;
    check_indexable("the input", u64::from(library.model.prefill_chunk_size) * u64::from(op.input.columns))?;
    let threads = (op.head_dim / 2).next_power_of_two().clamp(32, THREADS);
    let summary = format!("rotation, {} heads of {}", op.heads, op.head_dim);
    let groups = [fixed(op.heads), per_tokens(1), fixed(1)];
    let mut kernel = Specialization::new(Template::RopeQuery, summary, threads, groups);
    kernel.define("HEADS", format!("{}u", op.heads));
    kernel.define("HEAD_DIM", format!("{}u", op.head_dim));
    kernel.define("ROTARY", format!("{}u", op.rotary));
    kernel.input("input", "float");
    kernel.reads.inputs = 4 * u64::from(op.head_dim);
    if op.rotary > 0 {
        kernel.input("rope", "float");
        kernel.define("ROPE(kind, at)", "LOAD_F32(rope, (at))");
    }
    let place = NormPlace::Heads;
    let side = Side { prefix: "QUERY", kind: 0, place, heads: op.heads, weight: "query_weight", bias: "query_bias" };
    head_norm(&mut kernel, library, op.norm.as_ref(), &side, op.head_dim)?;
    kernel.output("output", "float");
    Ok(kernel)
}

/// Element `i` of head `h` of the queries (kind 0), keys (1) or values (2) of token `t`.
fn projected(op: &RopeAppend) -> String {
    let element = |rows: &str, columns: &str, head: &str| {
        format!("LOAD_F32({rows}, ((t) * ({columns}) + {head}) * HEAD_DIM + (i))")
    };
    match (op.apart, op.order) {
        (Some(_), _) => format!(
            "((kind) == 0 ? {} : ((kind) == 1 ? {} : {}))",
            element("qkv", "HEADS", "(h)"),
            element("key_rows", "KV_HEADS", "(h)"),
            element("value_rows", "KV_HEADS", "(h)"),
        ),
        (None, QkvOrder::Sections) => {
            let head = "((kind) == 0 ? (h) : ((kind) == 1 ? HEADS + (h) : HEADS + KV_HEADS + (h)))";
            element("qkv", "HEADS + 2 * KV_HEADS", head)
        }
        (None, QkvOrder::Gated) => {
            let head = "((kind) == 0 ? 2 * (h) : ((kind) == 1 ? 2 * HEADS + (h) : 2 * HEADS + KV_HEADS + (h)))";
            element("qkv", "2 * HEADS + 2 * KV_HEADS", head)
        }
        (None, QkvOrder::PerHead) => element("qkv", "HEADS + 2 * KV_HEADS", "(3 * (h) + (kind))"),
    }
}

/// Query heads of one kv head that a work group of `attention_decode` takes, and the positions of a block: as many heads as fit
/// into registers and local memory.
fn heads_each(heads: u32, kv_heads: u32, lanes: u32) -> (u32, u32) {
    let sharing = heads / kv_heads;
    let local_bytes = |each: u32, block: u32| 4 * (each * block * (lanes + 2) + (THREADS / lanes) * (lanes * 8 + 1));
    (2..=sharing.min(MOST_HEADS))
        .rev()
        .filter(|&each| sharing.is_multiple_of(each))
        .find_map(|each| {
            let block = [BLOCK, BLOCK / 2].into_iter().find(|&block| local_bytes(each, block) <= MAX_LOCAL_BYTES);
            block.map(|block| (each, block))
        })
        .unwrap_or((1, BLOCK))
}

/// How a work group of `attention_prefill` is used.
struct PrefillTile {
    /// Threads that share a token.
    lanes: u32,
    /// Query tokens.
    queries: u32,
    /// Query heads of one kv head.
    each: u32,
    /// Fours of elements of a head that a thread has.
    chunks: u32,
}

impl PrefillTile {
    /// As few threads for a token as have no more of it than [`MOST_FOURS`], and as many heads as fit into registers and local memory.
    fn of(op: &Attention) -> Self {
        let lanes = op.head_dim.div_ceil(4 * MOST_FOURS).next_power_of_two().max(8);
        let (queries, chunks) = (THREADS / lanes, op.head_dim.div_ceil(4 * lanes));
        let local_bytes = |each: u32| 4 * (lanes + 1) * (each * queries * (4 + 1) + 4 * BLOCK);
        let fits = |each: &u32| each * chunks <= MOST_FOURS && local_bytes(*each) <= MAX_LOCAL_BYTES;
        let sharing = op.heads / op.kv_heads;
        let each = (2..=sharing).rev().filter(|each| sharing.is_multiple_of(*each)).find(fits).unwrap_or(1);
        PrefillTile { lanes, queries, each, chunks }
    }
}

pub(super) fn attention(
    library: &ModelLibrary,
    op: &Attention,
    scratch: Option<Scratch>,
    tokens: Tokens,
) -> Result<Specialization, String> {
    check_heads(op.heads, op.kv_heads, op.head_dim)?;
    let kv = kv_layer(library, op.layer, op.kv_heads, op.head_dim)?;
    let row = u64::from(op.heads) * u64::from(op.head_dim);
    check_indexable("the input", u64::from(library.model.prefill_chunk_size) * row)?;
    let lanes = op.head_dim.div_ceil(8);
    let (each, block) = heads_each(op.heads, op.kv_heads, lanes);
    let parts = parts(op, scratch)?;
    let window = kv.window.map_or_else(String::new, |w| format!(", window {w}, sinks {}", kv.sinks));
    let heads = format!("{} / {} heads of {}{window}", op.heads, op.kv_heads, op.head_dim);
    let mut kernel = match tokens {
        Tokens::One => {
            let groups = [fixed(op.heads / each), fixed(parts), fixed(1)];
            let summary = format!("attention, one token, {heads}, positions in {parts}");
            let mut kernel = Specialization::new(Template::AttentionDecode, summary, THREADS, groups);
            kernel.define("HEADS_EACH", format!("{each}u"));
            kernel.define("LANES", format!("{lanes}u"));
            kernel.define("SLOTS", format!("{}u", THREADS / lanes));
            kernel.define("BLOCK", format!("{block}u"));
            kernel.define("PARTS", format!("{parts}u"));
            kernel
        }
        Tokens::Many => {
            let PrefillTile { lanes, queries, each, chunks } = PrefillTile::of(op);
            let groups = [fixed(op.heads / each), per_tokens(queries), fixed(1)];
            let summary = format!("attention, tiles of {queries} tokens, {heads}");
            let mut kernel = Specialization::new(Template::AttentionPrefill, summary, THREADS, groups);
            kernel.define("HEADS_EACH", format!("{each}u"));
            kernel.define("LANES", format!("{lanes}u"));
            kernel.define("QUERIES", format!("{queries}u"));
            kernel.define("TILE", format!("{BLOCK}u"));
            kernel.define("CHUNKS", format!("{chunks}u"));
            kernel
        }
    };
    let element = define_cache(&mut kernel, kv, op.heads)?;
    define_scores(&mut kernel, kv, op);
    kernel.input("query", "float");
    kernel.input("keys", element);
    kernel.input("values", element);
    match op.gate {
        Some(HeadGate { rows, start, stride, width }) => {
            kernel.input("gate", "float");
            let element = if width > 1 { "(i)" } else { "0u" };
            let at = format!("(t) * {}u + {start}u + (h) * {stride}u + {element}", rows.columns);
            kernel.define("GATED(v, t, h, i)", format!("((v) * logistic(LOAD_F32(gate, {at})))"));
        }
        None => kernel.define("GATED(v, t, h, i)", "(v)"),
    }
    kernel.output("output", "float");
    if tokens == Tokens::One && parts > 1 {
        kernel.scratch();
        let mut merge = kernel.clone();
        merge.template = Template::AttentionMerge;
        merge.summary = format!("attention, merging {parts} parts, {heads}");
        merge.groups = [fixed(op.heads), fixed(1), fixed(1)];
        merge.reads.inputs = 4 * u64::from(parts) * (u64::from(op.head_dim) + 2);
        kernel.then = Some(Box::new(merge));
    }
    Ok(kernel)
}

/// Parts of the positions that the scratch of a launch has room for; 1 without one.
fn parts(op: &Attention, scratch: Option<Scratch>) -> Result<u32, String> {
    let Some(scratch) = scratch else { return Ok(1) };
    let one = 4 * u64::from(op.heads) * (u64::from(op.head_dim) + 2);
    match u32::try_from(scratch.bytes_per_token / one) {
        Ok(parts) if parts > 0 => Ok(parts),
        _ => Err(format!("a scratch of {} bytes, {one} for each part", scratch.bytes_per_token)),
    }
}

/// Scaling, soft-capping, visibility, and loads of parts of a head that give 0 past its end.
fn define_scores(kernel: &mut Specialization, kv: &KvLayer, op: &Attention) {
    kernel.define_float("SCALE", op.scale);
    match op.soft_cap {
        Some(cap) => {
            kernel.define_float("CAP", cap);
            kernel.define("SOFT_CAP(s)", "(CAP * bounded_tanh((s) / CAP))");
        }
        None => kernel.define("SOFT_CAP(s)", "(s)"),
    }
    match kv.window {
        Some(window) => {
            kernel.define("WINDOW", format!("{window}u"));
            kernel.define("VISIBLE_START(q)", "((q) < WINDOW ? 0u : (q) - (WINDOW - 1u))");
            kernel.define("VISIBLE_SINKS(q)", "min(SINKS, VISIBLE_START(q))");
            kernel.define("SEES(q, j)", "((j) <= (q) && ((q) - (j) < WINDOW || (j) < SINKS))");
        }
        None => {
            kernel.define("VISIBLE_START(q)", "0u");
            kernel.define("VISIBLE_SINKS(q)", "0u");
            kernel.define("SEES(q, j)", "((j) <= (q))");
        }
    }
    kernel.define("VISIBLE_AT(i, a, b)", "((i) < (a) ? (i) : (b) + ((i) - (a)))");
    let (dim, tiles) = (op.head_dim, kernel.template == Template::AttentionPrefill);
    let eight = match dim {
        d if d.is_multiple_of(32) || (d.is_multiple_of(8) && !tiles) => "LOAD8(p, (start) + 8 * (part8))",
        d if d.is_multiple_of(8) => "(8 * (part8) < HEAD_DIM ? LOAD8(p, (start) + 8 * (part8)) : NOTHING8)",
        _ => "GUARDED8(LOAD, p, (start) + 8 * (part8), (start) + HEAD_DIM)",
    };
    kernel.define("HEAD8(LOAD, LOAD8, p, start, part8)", eight);
    let four = if dim.is_multiple_of(32) {
        "LOAD4_F32(p, (start) + 4 * (part4))"
    } else {
        "GUARDED4(LOAD_F32, p, (start) + 4 * (part4), (start) + HEAD_DIM)"
    };
    kernel.define("HEAD4(p, start, part4)", four);
}
