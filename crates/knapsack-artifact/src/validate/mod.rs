//! Everything that must hold before a device may trust a library: every index in range, every shape what its operation needs,
//! every workspace region inside the arena, no write that overlaps another operand of its launch, every size representable.
//! A device relies on it for memory safety; it is the only check between foreign bytes and `unsafe` code.
//!
//! What it does not check is whether the plan computes anything sensible: a launch may read rows that nobody wrote (they are
//! zeros or an earlier call's), which is wrong but harmless.

mod ops;
mod regions;
#[cfg(test)]
mod tests;

use crate::ModelLibrary;
use crate::library::{InvalidLibrary, MOST_TOP, Target, Top};
use crate::plan::{Function, Groups, KvLayer, Launch, Lookup, Op, Operand, RopeTable, StateLayer, state_bytes};
use knapsack_tensor::DType;
use std::collections::HashSet;

/// Most parameters of a library (a 126-layer model has about 1,300).
pub(crate) const MAX_PARAMETERS: usize = 1 << 16;
/// Most launches of a function.
pub(crate) const MAX_LAUNCHES: usize = 1 << 16;
/// Most transformer layers.
pub const MAX_LAYERS: usize = 1 << 10;
/// Most rotary tables.
pub(crate) const MAX_ROPE_TABLES: usize = 64;
/// Most GPU kernels.
pub(crate) const MAX_KERNELS: usize = 1 << 12;
/// Most elements of a row of activations, logits included.
pub const MAX_COLUMNS: u32 = 1 << 22;
/// Most elements of an attention head.
pub const MAX_HEAD_DIM: u32 = 512;
/// Most elements of a head of a recurrent layer.
pub const MAX_STATE_DIM: u32 = 256;
/// Most tokens that a convolution is over.
pub const MAX_TAPS: u32 = 16;
/// Most tables that stay in the file, and most rows that are carried to the head.
pub const MAX_CARRIED: usize = 16;
/// Most heads of a layer.
pub(crate) const MAX_HEADS: u32 = 1 << 12;
/// Most positions of a cache layer or a conversation.
pub const MAX_POSITIONS: u32 = 1 << 24;
/// Most tokens of a prefill call.
pub const MAX_CHUNK: u32 = 1 << 16;
/// Most bytes of any part of the memory plan.
pub const MAX_BYTES: u64 = 1 << 44;
/// Most threads of a GPU work group.
pub(crate) const MAX_THREADS: u64 = 1 << 10;

/// A check's outcome; the place is added by the caller that knows it.
type Check<T = ()> = Result<T, String>;

/// Fails with the formatted problem when the condition does not hold.
macro_rules! ensure {
    ($condition:expr, $($problem:tt)+) => {
        if !$condition {
            return Err(format!($($problem)+));
        }
    };
}
use ensure;

/// Adds the place to a check's problem.
fn at(place: impl Into<String>, check: Check) -> Result<(), InvalidLibrary> {
    check.map_err(|problem| InvalidLibrary { place: place.into(), problem })
}

/// Which function a launch belongs to: decides for how many tokens its rows must have room and which operations may occur.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Prefill,
    Decode,
    Head,
}

impl ModelLibrary {
    /// Checks the whole library.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn validate(&self) -> Result<(), InvalidLibrary> {
        at("library", check_text("name", &self.name).and_then(|()| check_text("compiler", &self.compiler)))?;
        at("model", self.check_model())?;
        at("parameters", self.check_count("parameters", self.parameters.len(), MAX_PARAMETERS))?;
        let mut names = HashSet::with_capacity(self.parameters.len());
        for (index, parameter) in self.parameters.iter().enumerate() {
            let unique = if names.insert(parameter.name.as_str()) { Ok(()) } else { Err("occurs twice".to_owned()) };
            at(
                format!("parameter {index} (`{}`)", shortened(&parameter.name)),
                unique.and_then(|()| self.check_parameter(index)),
            )?;
        }
        at("kernels", self.check_kernels())?;
        at("rope tables", self.check_count("tables", self.rope_tables.len(), MAX_ROPE_TABLES))?;
        for (index, table) in self.rope_tables.iter().enumerate() {
            at(format!("rope table {index}"), self.check_rope_table(table))?;
        }
        at("kv cache", self.check_layer_count())?;
        for (index, layer) in self.kv_cache.iter().enumerate() {
            at(format!("kv cache layer {index}"), self.check_kv_layer(layer))?;
        }
        // A recurrent layer has a convolution and a matrix at most.
        at("states", self.check_count("states", self.states.len(), 2 * MAX_LAYERS))?;
        for (index, state) in self.states.iter().enumerate() {
            at(format!("state {index}"), check_state(state))?;
        }
        at("memory", self.check_memory())?;
        at("io", self.check_io())?;
        at("lookups", self.check_lookups())?;
        self.check_function(Role::Prefill, "prefill", &self.prefill)?;
        self.check_function(Role::Decode, "decode", &self.decode)?;
        self.check_function(Role::Head, "head", &self.head)
    }

    fn check_count(&self, what: &str, count: usize, most: usize) -> Check {
        ensure!(count <= most, "{count} {what}, at most {most} are supported");
        Ok(())
    }

    fn check_model(&self) -> Check {
        let model = &self.model;
        check_text("family", &model.family)?;
        check_text("quantization", &model.quantization)?;
        check_range("vocab_size", model.vocab_size, MAX_COLUMNS)?;
        check_range("hidden_size", model.hidden_size, MAX_COLUMNS)?;
        check_range("prefill_chunk_size", model.prefill_chunk_size, MAX_CHUNK)?;
        for (name, value) in
            [("context_window_size", model.context_window_size), ("sliding_window_size", model.sliding_window_size)]
        {
            if let Some(value) = value {
                check_range(name, value, MAX_POSITIONS)?;
            }
        }
        ensure!(
            model.context_window_size.is_some() || model.sliding_window_size.is_some(),
            "neither a context window nor a sliding window"
        );
        Ok(())
    }

    fn check_parameter(&self, index: usize) -> Check {
        let parameter = &self.parameters[index];
        check_text("name", &parameter.name)?;
        ensure!(
            (1..=4).contains(&parameter.shape.len()) && parameter.shape.iter().all(|&dim| dim > 0),
            "shape {:?} is not 1 to 4 positive dimensions",
            parameter.shape
        );
        let bytes = parameter.bytes().filter(|&bytes| bytes <= MAX_BYTES);
        ensure!(bytes.is_some(), "shape {:?} exceeds {MAX_BYTES} bytes", parameter.shape);
        Ok(())
    }

    fn check_kernels(&self) -> Check {
        let Some(module) = &self.kernels else {
            ensure!(self.target == Target::Host, "a library for a GPU holds none");
            return Ok(());
        };
        ensure!(self.target != Target::Host, "a library for the host holds some");
        self.check_count("kernels", module.kernels.len(), MAX_KERNELS)?;
        let mut names = HashSet::new();
        for kernel in &module.kernels {
            let mut letters = kernel.name.bytes();
            let first = letters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            ensure!(
                first && kernel.name.len() <= 256 && letters.all(|b| b.is_ascii_alphanumeric() || b == b'_'),
                "`{}` is not an identifier",
                shortened(&kernel.name)
            );
            ensure!(names.insert(&kernel.name), "`{}` occurs twice", kernel.name);
            let threads = kernel.threads.iter().try_fold(1u64, |all, &axis| all.checked_mul(u64::from(axis)));
            ensure!(
                threads.is_some_and(|threads| (1..=MAX_THREADS).contains(&threads)),
                "`{}` has a work group of {:?} threads, at most {MAX_THREADS} are supported",
                kernel.name,
                kernel.threads
            );
        }
        ensure!(!module.source.is_empty() && !module.source.contains('\0'), "the source is empty or holds a NUL");
        ensure!(module.top.len() <= MOST_TOP as usize, "{} ways to the most likely tokens", module.top.len());
        module.top.iter().try_for_each(|top| check_top(top, module.kernels.len()))
    }

    fn check_rope_table(&self, table: &RopeTable) -> Check {
        let pairs = table.frequencies.len();
        ensure!((1..=MAX_HEAD_DIM as usize / 2).contains(&pairs), "{pairs} frequencies");
        ensure!(
            table.frequencies.iter().all(|f| f.is_finite()) && table.magnitude.is_finite(),
            "a frequency or the magnitude is not finite"
        );
        ensure!(
            table.rows.columns as usize == 2 * pairs,
            "{} columns for {pairs} frequencies, {} expected",
            table.rows.columns,
            2 * pairs
        );
        self.region("rows", table.rows, self.model.prefill_chunk_size).map(drop)
    }

    fn check_layer_count(&self) -> Check {
        self.check_count("layers", self.kv_cache.len(), MAX_LAYERS)?;
        ensure!(
            self.kv_cache.len() <= self.model.layers as usize,
            "{} layers, the model has {}",
            self.kv_cache.len(),
            self.model.layers
        );
        Ok(())
    }

    /// Positions must suffice for what [`KvLayer::slot`] and [`KvLayer::visible`] promise: without a window every position
    /// of the conversation has its slot; with one, a chunk's writes never hit what the chunk's first query still sees.
    fn check_kv_layer(&self, layer: &KvLayer) -> Check {
        check_range("kv_heads", layer.kv_heads, MAX_HEADS)?;
        check_range("head_dim", layer.head_dim, MAX_HEAD_DIM)?;
        check_range("positions", layer.positions, MAX_POSITIONS)?;
        ensure!(matches!(layer.dtype, DType::F16 | DType::F32), "a cache of {}", layer.dtype);
        let ring = match layer.window {
            Some(window) => {
                check_range("window", window, MAX_POSITIONS)?;
                ensure!(layer.sinks <= MAX_POSITIONS, "{} sinks", layer.sinks);
                Some(layer.sinks + window + self.model.prefill_chunk_size - 1)
            }
            None => {
                ensure!(layer.sinks == 0, "{} sinks without a window", layer.sinks);
                None
            }
        };
        let needed = match (self.model.context_window_size, ring) {
            (Some(context), Some(ring)) => context.min(ring),
            (Some(all), None) | (None, Some(all)) => all,
            (None, None) => return Err("no window, in a model without a context window".to_owned()),
        };
        ensure!(layer.positions >= needed, "{} positions, at least {needed} are needed", layer.positions);
        ensure!(layer.positions > layer.sinks, "{} positions for {} sinks", layer.positions, layer.sinks);
        Ok(())
    }

    fn check_memory(&self) -> Check {
        let all = self.parameters.iter().try_fold(0u64, |sum, p| sum.checked_add(p.bytes()?));
        let file = self
            .lookups
            .iter()
            .flat_map(Lookup::parameters)
            .try_fold(0u64, |sum, id| sum.checked_add(self.parameters.get(id.0 as usize)?.bytes()?));
        let weights = all.zip(file).and_then(|(all, file)| all.checked_sub(file));
        let kv_cache = self.kv_cache.iter().try_fold(0u64, |sum, layer| sum.checked_add(layer.bytes()));
        let state = state_bytes(&self.states, &self.kv_cache, self.model.context_window_size);
        for (what, planned, sum) in [
            ("weights", self.memory.weights, weights),
            ("file", self.memory.file, file),
            ("kv_cache", self.memory.kv_cache, kv_cache),
            ("state", self.memory.state, state),
        ] {
            ensure!(sum == Some(planned), "{what} is {planned}, its parts add up to {sum:?}");
            ensure!(planned <= MAX_BYTES, "{what} of {planned} bytes");
        }
        ensure!(self.memory.workspace.is_multiple_of(4), "workspace of {} bytes", self.memory.workspace);
        ensure!(self.memory.workspace <= MAX_BYTES, "workspace of {} bytes", self.memory.workspace);
        Ok(())
    }

    /// The host writes tokens, rope tables and rows of lookups, so they must be apart; what it reads must be what the model promises.
    fn check_io(&self) -> Check {
        let chunk = self.model.prefill_chunk_size;
        ensure!(self.io.tokens.bytes_per_token == 4, "{} bytes per token id", self.io.tokens.bytes_per_token);
        let (hidden, logits) = (self.io.hidden, self.io.logits);
        ensure!(hidden.columns == self.model.hidden_size, "hidden has {} columns", hidden.columns);
        ensure!(logits.columns == self.model.vocab_size, "logits have {} columns", logits.columns);
        self.region("hidden", hidden, chunk)?;
        self.region("logits", logits, 1)?;
        let mut written = vec![self.scratch_region("tokens", self.io.tokens, chunk)?];
        let call = self.call_region()?;
        ensure!(written[0].is_disjoint(&call), "the numbers of a call overlap the tokens");
        written.push(call);
        for (index, table) in self.rope_tables.iter().enumerate() {
            let region = self.region("rope table", table.rows, chunk)?;
            ensure!(
                written.iter().all(|other| other.is_disjoint(&region)),
                "rope table {index} overlaps the tokens or another table"
            );
            written.push(region);
        }
        self.check_count("lookups", self.lookups.len(), MAX_CARRIED)?;
        for (index, lookup) in self.lookups.iter().enumerate() {
            let region = self.region("lookup", lookup.rows, chunk)?;
            ensure!(
                written.iter().all(|other| other.is_disjoint(&region)),
                "lookup {index} overlaps the tokens or another table"
            );
            written.push(region);
        }
        self.check_count("carried rows", self.io.carried.len(), MAX_CARRIED)?;
        for &carried in &self.io.carried {
            self.region("carried", carried, chunk)?;
        }
        Ok(())
    }

    /// Parameters that stay in the file are those of one table each, and no launch reads them.
    fn check_lookups(&self) -> Check {
        let mut used = HashSet::new();
        for lookup in &self.lookups {
            self.check_table(&lookup.table, lookup.vocab, lookup.scale, lookup.rows.columns)?;
            ensure!(lookup.parameters().all(|id| used.insert(id)), "a parameter is that of two tables");
        }
        if used.is_empty() {
            return Ok(());
        }
        let launches = [&self.prefill, &self.decode, &self.head].into_iter().flat_map(|function| &function.launches);
        for operand in launches.flat_map(|launch| launch.op.operands()) {
            ensure!(
                !matches!(operand, Operand::Parameter(id) if used.contains(&id)),
                "a launch reads what stays in the file"
            );
        }
        Ok(())
    }

    fn check_function(&self, role: Role, name: &str, function: &Function) -> Result<(), InvalidLibrary> {
        at(name, self.check_count("launches", function.launches.len(), MAX_LAUNCHES))?;
        let result = if role == Role::Head { self.io.logits } else { self.io.hidden };
        let mut writes_result = false;
        // Launches to come that an earlier one's kernel executes.
        let mut executed = 0u32;
        for (index, launch) in function.launches.iter().enumerate() {
            let left = function.launches.len() - index - 1;
            let check =
                self.check_launch(role, launch).and_then(|()| self.check_call(role, launch, executed > 0, left));
            at(format!("{name} launch {index} ({})", launch.op.name()), check)?;
            executed = launch.gpu.as_ref().map_or(executed.saturating_sub(1), |call| call.more);
            writes_result |= launch.op.outputs().any(|rows| rows == result);
        }
        at(name, if writes_result { Ok(()) } else { Err("no launch writes its result".to_owned()) })
    }

    fn check_launch(&self, role: Role, launch: &Launch) -> Check {
        match &launch.op {
            Op::Embed(op) => self.check_embed(role, op)?,
            Op::Norm(op) => self.check_norm(role, op)?,
            Op::AddNorm(op) => self.check_add_norm(op)?,
            Op::Linear(op) => self.check_linear(op)?,
            Op::RopeAppend(op) => self.check_rope_append(role, op)?,
            Op::Attention(op) => self.check_attention(op)?,
            Op::CausalConv(op) => self.check_causal_conv(role, op)?,
            Op::GatedDelta(op) => self.check_gated_delta(role, op)?,
            Op::RopeQuery(op) => self.check_rope_query(op)?,
            Op::Select(op) => self.check_select(role, op)?,
        }
        self.check_regions(role, launch)
    }

    /// `executed`: by the kernel of a launch before; `left`: launches after this one.
    fn check_call(&self, role: Role, launch: &Launch, executed: bool, left: usize) -> Check {
        match (&launch.gpu, &self.kernels) {
            (None, None) => Ok(()),
            (None, Some(_)) if executed => Ok(()),
            (Some(_), Some(_)) if executed => Err("names a kernel, and the one before executes it too".to_owned()),
            (Some(call), Some(module)) => {
                ensure!(call.more as usize <= left, "executes {} more launches of {left}", call.more);
                ensure!(!call.scratch || launch.scratch.is_some(), "a kernel takes a scratch that is not there");
                let count = module.kernels.len();
                let then = call.then.as_ref().map(|then| (then.kernel, then.groups));
                for (kernel, groups) in std::iter::once((call.kernel, call.groups)).chain(then) {
                    ensure!((kernel as usize) < count, "kernel {kernel} of {count}");
                    groups.into_iter().try_for_each(|axis| self.check_axis(role, axis))?;
                }
                Ok(())
            }
            (gpu, _) => Err(if gpu.is_some() { "names a kernel of none" } else { "names no kernel" }.to_owned()),
        }
    }

    fn check_axis(&self, role: Role, groups: Groups) -> Check {
        let repeats = match groups.tokens_per_group {
            0 => 1,
            per => self.tokens(role).div_ceil(per),
        };
        let total = groups.count.checked_mul(repeats);
        ensure!(total.is_some_and(|total| total > 0), "a grid axis of {} x {repeats} groups", groups.count);
        Ok(())
    }

    /// The most tokens of a call.
    fn tokens(&self, role: Role) -> u32 {
        match role {
            Role::Prefill => self.model.prefill_chunk_size,
            Role::Decode | Role::Head => 1,
        }
    }
}

fn check_top(top: &Top, kernels: usize) -> Check {
    check_range("count of the most likely tokens", top.count, MOST_TOP)?;
    ensure!(top.gpu.more == 0 && !top.gpu.scratch, "the most likely tokens take more than the logits");
    let then = top.gpu.then.as_ref().map(|then| (then.kernel, then.groups));
    for (kernel, groups) in std::iter::once((top.gpu.kernel, top.gpu.groups)).chain(then) {
        ensure!((kernel as usize) < kernels, "kernel {kernel} of {kernels}");
        for axis in groups {
            check_range("work groups over the logits", axis.at(1), MOST_TOP)?;
        }
    }
    Ok(())
}

fn check_state(state: &StateLayer) -> Check {
    match *state {
        StateLayer::Conv { channels, taps } => {
            check_range("channels", channels, MAX_COLUMNS)?;
            ensure!((2..=MAX_TAPS).contains(&taps), "taps is {taps}, supported are 2 to {MAX_TAPS}");
            Ok(())
        }
        StateLayer::Delta { heads, key_dim, value_dim } => {
            check_range("heads", heads, MAX_HEADS)?;
            check_range("key_dim", key_dim, MAX_STATE_DIM)?;
            check_range("value_dim", value_dim, MAX_STATE_DIM)
        }
    }
}

fn check_range(what: &str, value: u32, most: u32) -> Check {
    ensure!((1..=most).contains(&value), "{what} is {value}, supported are 1 to {most}");
    Ok(())
}

fn check_text(what: &str, text: &str) -> Check {
    ensure!(
        !text.is_empty() && text.len() <= 512 && !text.chars().any(char::is_control),
        "{what} `{}` is empty, too long or holds control characters",
        shortened(text)
    );
    Ok(())
}

/// For messages: foreign text, printable and at most 64 characters.
fn shortened(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}
