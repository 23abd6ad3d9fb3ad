//! How a launch becomes a task on the pool.

use super::linear::{Routine, plan, smallest_unit};
use super::pool::Pool;
use super::table::Table;
use super::task::{
    Acts, Attention, Cache, Conv, Delta, Embed, Floats, Gate, Linear, Matrix, Norm, Others, Rope, RopeQuery, Rows,
    Shared,
};
use super::{attention, conv};
use crate::DeviceError;
use crate::call::Call;
use crate::host::{CachedLayer, Executor, HostMemory};
use knapsack_artifact::plan::{self, Launch, NormWeights, Op, ParameterId, RowSelect, Scratch, Weight};
use knapsack_tensor::Layout;
use std::convert::Infallible;
use std::sync::Arc;

/// Elements below which rows of a cheap operation are not worth another thread.
const SMALL: usize = 1 << 14;
/// A product's output columns for each that may be asked for alone.
const FEW: usize = 16;

/// Executes launches with an instruction set's routines, on the threads of a pool.
pub(super) struct CpuExecutor {
    pub(super) table: &'static Table,
    pub(super) pool: Arc<Pool>,
}

impl Executor for CpuExecutor {
    fn launch(&self, memory: &mut HostMemory, launch: &Launch, call: Call) -> Result<(), DeviceError> {
        let launcher = Launcher { memory, executor: self };
        match &launch.op {
            Op::Embed(op) => launcher.embed(op, call),
            Op::Norm(op) => launcher.norm(op, call),
            Op::AddNorm(op) => launcher.add_norm(op, call),
            Op::Linear(op) => launcher.linear(op, launch.scratch, call, None),
            Op::RopeAppend(op) => launcher.rope_append(op, call),
            Op::Attention(op) => launcher.attention(op, call),
            Op::CausalConv(op) => launcher.causal_conv(op, call),
            Op::GatedDelta(op) => launcher.gated_delta(op, call),
            Op::RopeQuery(op) => launcher.rope_query(op, call),
            Op::Select(op) => launcher.select(op, call),
        }
        Ok(())
    }

    fn few_columns(&self, launch: &Launch) -> usize {
        match &launch.op {
            Op::Linear(op) => op.output.columns as usize / FEW,
            _ => 0,
        }
    }

    fn launch_columns(
        &self,
        memory: &mut HostMemory,
        launch: &Launch,
        call: Call,
        columns: &[u32],
    ) -> Result<(), DeviceError> {
        match &launch.op {
            Op::Linear(op) if columns.len() <= self.few_columns(launch) => {
                let launcher = Launcher { memory, executor: self };
                launcher.linear(op, launch.scratch, call, Some(columns));
                Ok(())
            }
            _ => self.launch(memory, launch, call),
        }
    }
}

/// One launch on a model's memory, which nothing else uses meanwhile.
struct Launcher<'a> {
    memory: &'a HostMemory,
    executor: &'a CpuExecutor,
}

impl Launcher<'_> {
    /// Where workspace byte `offset` lies. Validation has placed every operand that is asked for inside the workspace.
    fn place<T>(&self, offset: u64) -> *mut T {
        debug_assert!(offset < self.memory.workspace.len() as u64);
        self.memory.workspace.as_mut_ptr().wrapping_add(offset as usize).cast()
    }

    fn floats(&self, id: ParameterId) -> Floats {
        Floats {
            data: self.memory.weights.get(id).as_ptr(),
            dtype: self.memory.library.parameters[id.0 as usize].dtype,
        }
    }

    fn matrix(&self, weight: &Weight) -> Matrix {
        match *weight {
            Weight::Dense(id) => Matrix::Dense(self.floats(id)),
            Weight::Grouped { codes, scales, format } => Matrix::Grouped {
                codes: self.memory.weights.get(codes).as_ptr(),
                scales: self.floats(scales),
                grouping: format.grouping(),
                by_rows: format.layout == Layout::Nk,
            },
        }
    }

    fn norm_weights(&self, norm: &NormWeights) -> Norm {
        let [weight, bias] = [norm.weight, norm.bias].map(|id| id.map(|id| self.floats(id)));
        Norm { kind: norm.kind, epsilon: norm.epsilon, weight, bias }
    }

    fn cache_layer(&self, index: u32) -> Cache {
        let CachedLayer { layer, keys, values } = self.memory.layers[index as usize];
        let base = self.memory.cache.as_mut_ptr();
        Cache { layer, keys: base.wrapping_add(keys), values: base.wrapping_add(values) }
    }

    /// Runs a routine over rows or units: here when there is little to do, else on all threads.
    fn spread<T: Copy>(&self, routine: unsafe fn(&T, usize), task: &T, units: usize, elements: usize) {
        self.spread_over(routine, task, units, &|unit| unit, elements);
    }

    /// Runs a routine over the units that `unit` gives for each index below `count`, no unit twice.
    fn spread_over<T: Copy>(
        &self,
        routine: unsafe fn(&T, usize),
        task: &T,
        count: usize,
        unit: &(impl Fn(usize) -> usize + Sync),
        elements: usize,
    ) {
        let task = &Shared(*task);
        let call = move |index| {
            // The whole of it, so that the closure may be called by other threads.
            let Shared(task) = task;
            // SAFETY: the routine comes from the table of an available instruction set, and the task was made by this model
            // from a validated library and checked arguments; the units exist and write disjoint parts.
            unsafe { routine(task, unit(index)) }
        };
        match elements < SMALL {
            true => (0..count).for_each(call),
            false => self.executor.pool.run(count, &call),
        }
    }

    fn embed(&self, op: &plan::Embed, call: Call) {
        let task = Embed {
            tokens: self.place(self.memory.library.io.tokens.offset),
            table: self.matrix(&op.table),
            columns: op.output.columns as usize,
            scale: op.scale,
            output: self.place(op.output.offset),
        };
        self.spread(self.executor.table.embed, &task, call.n as usize, call.n as usize * task.columns);
    }

    fn norm(&self, op: &plan::Norm, call: Call) {
        let columns = op.input.columns as usize;
        let first = if op.rows == RowSelect::One { call.row as usize * columns } else { 0 };
        let input = self.place::<f32>(op.input.offset).wrapping_add(first);
        let post = Some((self.norm_weights(&op.norm), self.place(op.output.offset)));
        let task = Rows { columns, residual: None, input, pre: None, scale: None, sum: std::ptr::null_mut(), post };
        self.spread(self.executor.table.norm, &task, call.n as usize, call.n as usize * columns);
    }

    fn add_norm(&self, op: &plan::AddNorm, call: Call) {
        // Groups of columns are rows to a norm of them.
        let (columns, groups) = ((op.residual.columns / op.groups) as usize, op.groups as usize);
        let task = Rows {
            columns,
            residual: Some(self.place(op.residual.offset)),
            input: self.place(op.delta.offset),
            pre: op.pre.as_ref().map(|norm| self.norm_weights(norm)),
            scale: op.scale.map(|id| self.floats(id)),
            sum: self.place(op.sum.offset),
            post: op.post.as_ref().map(|(norm, output)| (self.norm_weights(norm), self.place(output.offset))),
        };
        self.spread(self.executor.table.norm, &task, call.n as usize * groups, call.n as usize * groups * columns);
    }

    /// A product, of all output columns or, for one token, at least of these.
    fn linear(&self, op: &plan::Linear, scratch: Option<Scratch>, call: Call, only: Option<&[u32]>) {
        let (n, k) = (call.n as usize, op.input.columns as usize);
        let (acts, digits) = match (op.weight, scratch) {
            // Loading has checked that a grouped product has the scratch that it needs.
            (Weight::Grouped { format, .. }, Some(scratch)) => {
                let acts = Acts::new(self.place(scratch.offset), k, format.grouping());
                (acts, if scratch.bytes_per_token >= 2 * acts.stride as u64 { 2 } else { 1 })
            }
            _ => (Acts::none(), 1),
        };
        let mut task = Linear {
            n: n * digits,
            digits,
            k,
            features: op.out_features as usize,
            columns: op.output.columns as usize,
            input: self.place(op.input.offset),
            output: self.place(op.output.offset),
            matrix: self.matrix(&op.weight),
            bias: op.bias.map(|id| self.floats(id)),
            finish: {
                let other = |rows: plan::Rows| Others { data: self.place(rows.offset), columns: rows.columns as usize };
                let Ok(finish) = op.epilogue.try_map(|rows| Ok::<_, Infallible>(other(rows)));
                finish
            },
            acts,
            unit: 0,
        };
        let routine = plan(&mut task, self.executor.table.panel_columns);
        if routine != Routine::Dense {
            self.spread(self.executor.table.quantize, &task, task.n, task.n * k);
        }
        let function = match routine {
            Routine::Rows => self.executor.table.rows,
            Routine::Columns => self.executor.table.columns,
            Routine::Panel => self.executor.table.panel,
            Routine::Dense => self.executor.table.dense,
        };
        let Some(only) = only else {
            return self.spread(function, &task, task.columns.div_ceil(task.unit), task.n * k * task.features);
        };
        task.unit = smallest_unit(routine, task.unit);
        let mut units: Vec<usize> = only.iter().map(|&column| column as usize / task.unit).collect();
        units.sort_unstable();
        units.dedup();
        self.spread_over(function, &task, units.len(), &|index| units[index], units.len() * task.unit * k);
    }

    fn rope_append(&self, op: &plan::RopeAppend, call: Call) {
        let dim = op.head_dim as u64;
        // A tensor of one head's length is shared by all heads; otherwise each head has its part.
        let norm = |model: &Self, norm: &NormWeights| {
            let own = |id: ParameterId| model.memory.library.parameters[id.0 as usize].shape != [dim];
            (model.norm_weights(norm), [norm.weight.is_some_and(own), norm.bias.is_some_and(own)])
        };
        let angles = |table: u32| self.angles(table, op.rotary, call);
        let task = Rope {
            qkv: self.place(op.qkv.offset),
            apart: op
                .apart
                .map(|rows| [self.place(rows.keys.offset), self.place(rows.values.offset)].map(<*mut f32>::cast_const)),
            order: op.order,
            heads: op.heads as usize,
            rotary: op.rotary as usize,
            angles: angles(op.rope_table),
            query_angles: angles(op.query_table.unwrap_or(op.rope_table)),
            place: op.norm_place,
            query_norm: op.query_norm.as_ref().map(|weights| norm(self, weights)),
            key_norm: op.key_norm.as_ref().map(|weights| norm(self, weights)),
            value_norm: op.value_norm.as_ref().map(|norm| self.norm_weights(norm)),
            cache: self.cache_layer(op.layer),
            query: self.place(op.query.offset),
            position: call.position,
        };
        self.spread(self.executor.table.rope, &task, call.n as usize, call.n as usize * op.qkv.columns as usize);
    }

    /// Where the rotary angles of the first token begin.
    fn angles(&self, table: u32, rotary: u32, call: Call) -> *const f32 {
        if rotary == 0 {
            return std::ptr::null();
        }
        let rows = self.memory.library.rope_tables[table as usize].rows;
        self.place::<f32>(rows.offset).wrapping_add(call.row as usize * rows.columns as usize).cast_const()
    }

    fn rope_query(&self, op: &plan::RopeQuery, call: Call) {
        let task = RopeQuery {
            input: self.place(op.input.offset),
            heads: op.heads as usize,
            dim: op.head_dim as usize,
            rotary: op.rotary as usize,
            angles: self.angles(op.rope_table, op.rotary, call),
            norm: op.norm.as_ref().map(|norm| self.norm_weights(norm)),
            output: self.place(op.output.offset),
        };
        let columns = op.input.columns as usize;
        self.spread(self.executor.table.rope_query, &task, call.n as usize, call.n as usize * columns);
    }

    fn select(&self, op: &plan::Select, call: Call) {
        let columns = op.input.columns as usize;
        let from = self.place::<f32>(op.input.offset).wrapping_add(call.row as usize * columns).cast_const();
        // SAFETY: validation has placed all rows of a call, of which `row` is one, and the output apart from them.
        unsafe { std::ptr::copy_nonoverlapping(from, self.place::<f32>(op.output.offset), columns) };
    }

    /// Where a state lies.
    fn state(&self, index: u32) -> *mut f32 {
        self.memory.state.as_mut_ptr().wrapping_add(self.memory.states[index as usize]).cast()
    }

    fn causal_conv(&self, op: &plan::CausalConv, call: Call) {
        let column = |at: u32| self.place::<f32>(op.input.offset).wrapping_add(at as usize).cast_const();
        let task = Conv {
            n: call.n as usize,
            channels: op.output.columns as usize,
            taps: op.taps as usize,
            columns: op.input.columns as usize,
            input: column(op.start),
            gate_in: op.gate_in.map(column),
            gate_out: op.gate_out.map(column),
            weight: self.floats(op.weight),
            bias: op.bias.map(|id| self.floats(id)),
            activation: op.activation,
            state: self.state(op.state),
            fresh: call.position == 0,
            output: self.place(op.output.offset),
        };
        let elements = task.n * task.channels * task.taps;
        self.spread(self.executor.table.conv, &task, task.channels.div_ceil(conv::CHANNELS), elements);
    }

    fn gated_delta(&self, op: &plan::GatedDelta, call: Call) {
        let task = Delta {
            n: call.n as usize,
            key_heads: op.key_heads as usize,
            heads: op.heads as usize,
            key_dim: op.key_dim as usize,
            value_dim: op.value_dim as usize,
            qkv: self.place(op.qkv.offset),
            decay: self.place(op.decay.offset),
            write: self.place(op.write.offset),
            gate: self.place(op.gate.offset),
            decay_log: self.floats(op.decay_log),
            decay_bias: self.floats(op.decay_bias),
            norm: self.norm_weights(&op.norm),
            state: self.state(op.state),
            fresh: call.position == 0,
            output: self.place(op.output.offset),
        };
        let elements = task.n * task.key_dim * op.output.columns as usize;
        self.spread(self.executor.table.delta, &task, task.heads, elements);
    }

    fn attention(&self, op: &plan::Attention, call: Call) {
        let cache = self.cache_layer(op.layer);
        let task = Attention {
            n: call.n as usize,
            query: self.place(op.query.offset),
            heads: op.heads as usize,
            scale: op.scale,
            soft_cap: op.soft_cap,
            cache,
            gate: op.gate.map(|gate| Gate {
                first: self.place::<f32>(gate.rows.offset).wrapping_add(gate.start as usize),
                columns: gate.rows.columns as usize,
                stride: gate.stride as usize,
                wide: gate.width > 1,
            }),
            output: self.place(op.output.offset),
            position: call.position + call.row,
        };
        let seen = (task.position + call.n).min(cache.layer.positions) as usize;
        let elements = call.n as usize * seen * op.query.columns as usize;
        self.spread(self.executor.table.attention, &task, attention::units(&task), elements);
    }
}
