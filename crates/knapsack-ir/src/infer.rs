//! Result types from operations: the one place that says which operands an operation accepts.

use crate::{
    AttentionGate, CausalConv, Columns, Epilogue, GatedDelta, Graph, Linear, Norm, NormPlace, Op, ParameterId,
    QkvOrder, RopeAppend, RowCount, StateLayer, Storage, Type, ValueId, Weight,
};
use knapsack_tensor::{DType, NormKind};

/// Why an operation has no type. The text holds the offending values.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct TypeError(pub String);

type Checked<T> = Result<T, TypeError>;

macro_rules! require {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(TypeError(format!($($message)+)));
        }
    };
}

/// The types of an operation's results; `types` gives those of the values defined so far.
///
/// # Errors
/// When an operand, a parameter or an attribute does not fit.
pub fn infer(graph: &Graph, types: &[Option<Type>], op: &Op) -> Checked<Vec<Type>> {
    Context { graph, types }.infer(op)
}

struct Context<'a> {
    graph: &'a Graph,
    types: &'a [Option<Type>],
}

impl Context<'_> {
    fn infer(&self, op: &Op) -> Checked<Vec<Type>> {
        let one = |ty| Ok(vec![ty]);
        match op {
            Op::Tokens => one(Type::Tokens),
            Op::Dequantize(weight) => {
                self.weight(weight)?;
                one(Type::Matrix { rows: weight.rows, columns: weight.columns })
            }
            &Op::Embed { table, tokens, .. } => {
                self.tokens(tokens)?;
                let (_, columns) = self.matrix(table)?;
                one(Type::Rows { count: RowCount::Tokens, columns })
            }
            &Op::Matmul { input, weight } => {
                let (count, inner) = self.rows(input)?;
                let (rows, columns) = self.matrix(weight)?;
                require!(inner == columns, "{inner} columns times a matrix of {columns}");
                one(Type::Rows { count, columns: rows })
            }
            &Op::Bias { input, bias } => {
                let (count, columns) = self.rows(input)?;
                self.vector(bias, &[columns])?;
                one(Type::Rows { count, columns })
            }
            &Op::Add { a, b } | &Op::Mul { a, b } => {
                let (left, right) = (self.rows(a)?, self.rows(b)?);
                require!(left == right, "{a} and {b} have different shapes");
                one(Type::Rows { count: left.0, columns: left.1 })
            }
            &Op::Scale { input, factor: number } | &Op::SoftCap { input, cap: number } => {
                require!(number.is_finite() && number != 0.0, "a factor or cap of {number}");
                one(self.same(input)?)
            }
            &Op::Activation { input, .. } => one(self.same(input)?),
            &Op::ScaleBy { input, factor } => {
                self.vector(factor, &[1])?;
                one(self.same(input)?)
            }
            Op::RopeQuery { input, head_dim, rotary, table, norm } => {
                let (_, columns) = self.rows(*input)?;
                let whole = *head_dim > 0 && columns.is_multiple_of(*head_dim);
                require!(whole, "{columns} columns are no heads of {head_dim}");
                if *rotary > 0 {
                    self.rotary(*table, *head_dim, *rotary)?;
                }
                if let Some(norm) = norm {
                    require!(norm.width == *head_dim, "a head norm of {}", norm.width);
                    self.norm(norm, *head_dim)?;
                }
                one(self.same(*input)?)
            }
            &Op::Slice { input, columns } => one(self.slice(input, columns)?),
            Op::Norm { input, norm } => {
                self.norm(norm, self.rows(*input)?.1)?;
                one(self.same(*input)?)
            }
            &Op::Rope { input, table, head_dim, rotary } => {
                let (_, columns) = self.rows(input)?;
                require!(
                    head_dim > 0 && columns.is_multiple_of(head_dim),
                    "{columns} columns are no heads of {head_dim}"
                );
                self.rotary(table, head_dim, rotary)?;
                one(self.same(input)?)
            }
            &Op::Append { key, value, layer } => {
                let kv = self.layer(layer)?;
                let expected = (RowCount::Tokens, self.product(kv.kv_heads, kv.head_dim)?);
                require!(
                    self.rows(key)? == expected && self.rows(value)? == expected,
                    "keys or values do not fit layer {layer}"
                );
                one(Type::Cache(layer))
            }
            &Op::Attention { query, cache, scale, soft_cap, gate } => {
                let attended = self.attention(query, cache, scale, soft_cap)?;
                if let Some(AttentionGate { rows, columns }) = gate {
                    self.gate(attended, self.slice(rows, columns)?)?;
                }
                one(attended)
            }
            &Op::Gate { input, gate } => one(self.gate(self.same(input)?, self.same(gate)?)?),
            Op::CausalConv(op) => one(self.causal_conv(op)?),
            Op::GatedDelta(op) => one(self.gated_delta(op)?),
            &Op::SelectRow { input } => one(self.selected(input)?),
            Op::EmbedRows { table, tokens, scale, .. } => {
                self.weight(table)?;
                self.tokens(*tokens)?;
                require!(scale.is_finite(), "a scale of {scale}");
                one(Type::Rows { count: RowCount::Tokens, columns: table.columns })
            }
            Op::NormSelected { input, norm } => {
                let (_, columns) = self.rows(*input)?;
                require!(norm.width == columns, "a norm of {} on rows of {columns}", norm.width);
                self.norm(norm, columns)?;
                one(self.selected(*input)?)
            }
            Op::Linear(linear) => one(self.linear(linear)?),
            Op::AddNorm { residual, delta, pre, scale, post } => {
                let rows = self.rows(*residual)?;
                require!(rows == self.rows(*delta)?, "{residual} and {delta} have different shapes");
                let alone = scale.is_none() && post.is_none();
                for (norm, alone) in pre.iter().map(|norm| (norm, alone)).chain(post.iter().map(|norm| (norm, false))) {
                    let fits = norm.width == rows.1 || (alone && norm.width > 0 && rows.1.is_multiple_of(norm.width));
                    require!(fits, "a norm of {} on rows of {}", norm.width, rows.1);
                    self.norm(norm, norm.width)?;
                }
                if let Some(scale) = scale {
                    self.vector(*scale, &[1])?;
                }
                Ok(vec![Type::Rows { count: rows.0, columns: rows.1 }; 1 + usize::from(post.is_some())])
            }
            Op::RopeAppend(op) => self.rope_append(op),
        }
    }

    fn value(&self, id: ValueId) -> Checked<Type> {
        self.types
            .get(id.0 as usize)
            .copied()
            .flatten()
            .ok_or_else(|| TypeError(format!("{id} is not defined before its use")))
    }

    fn rows(&self, id: ValueId) -> Checked<(RowCount, u32)> {
        match self.value(id)? {
            Type::Rows { count, columns } => Ok((count, columns)),
            other => Err(TypeError(format!("{id} is {other}, not rows"))),
        }
    }

    fn same(&self, id: ValueId) -> Checked<Type> {
        self.rows(id).map(|(count, columns)| Type::Rows { count, columns })
    }

    fn selected(&self, id: ValueId) -> Checked<Type> {
        let (count, columns) = self.rows(id)?;
        require!(count == RowCount::Tokens, "{id} is one row already");
        Ok(Type::Rows { count: RowCount::One, columns })
    }

    fn matrix(&self, id: ValueId) -> Checked<(u32, u32)> {
        match self.value(id)? {
            Type::Matrix { rows, columns } => Ok((rows, columns)),
            other => Err(TypeError(format!("{id} is {other}, not a matrix"))),
        }
    }

    fn tokens(&self, id: ValueId) -> Checked<()> {
        let ty = self.value(id)?;
        require!(ty == Type::Tokens, "{id} is {ty}, not tokens");
        Ok(())
    }

    fn product(&self, a: u32, b: u32) -> Checked<u32> {
        a.checked_mul(b).ok_or_else(|| TypeError(format!("{a} times {b} columns are too many")))
    }

    fn layer(&self, layer: u32) -> Checked<crate::KvLayer> {
        self.graph.kv_layers.get(layer as usize).copied().ok_or_else(|| TypeError(format!("no cache layer {layer}")))
    }

    fn tensor(&self, id: ParameterId, shape: &[u64], dtype: Option<DType>) -> Checked<()> {
        let parameter = self.graph.parameter(id).ok_or_else(|| TypeError(format!("no parameter {id}")))?;
        require!(parameter.shape == shape, "`{}` has shape {:?}, not {shape:?}", parameter.name, parameter.shape);
        match dtype {
            Some(dtype) => {
                require!(parameter.dtype == dtype, "`{}` is {}, not {dtype}", parameter.name, parameter.dtype)
            }
            None => require!(parameter.dtype != DType::U32, "`{}` is not floating point", parameter.name),
        }
        Ok(())
    }

    /// A one-dimensional floating-point parameter of one of these lengths.
    fn vector(&self, id: ParameterId, lengths: &[u32]) -> Checked<()> {
        let length = self.graph.parameter(id).and_then(|parameter| u32::try_from(*parameter.shape.first()?).ok());
        let expected = length.filter(|length| lengths.contains(length)).unwrap_or(lengths[0]);
        self.tensor(id, &[u64::from(expected)], None)
    }

    fn weight(&self, weight: &Weight) -> Checked<()> {
        let (n, k) = (u64::from(weight.rows), u64::from(weight.columns));
        require!(n > 0 && k > 0, "an empty matrix, {n} by {k}");
        match weight.storage {
            Storage::Dense(id) => self.tensor(id, &[n, k], None),
            Storage::Grouped { codes, scales, format } => {
                require!(
                    format.is_executable(),
                    "{} bits in groups of {}, scales of {}",
                    format.bits,
                    format.group,
                    format.scale
                );
                self.tensor(codes, &format.code_shape(n, k), Some(DType::U32))?;
                self.tensor(scales, &format.scale_shape(n, k), Some(format.scale))
            }
        }
    }

    fn norm(&self, norm: &Norm, columns: u32) -> Checked<()> {
        let Norm { width, kind, epsilon, .. } = *norm;
        require!(width > 0 && columns.is_multiple_of(width), "a norm of {width} on {columns} columns");
        require!(epsilon.is_finite() && epsilon >= 0.0, "an epsilon of {epsilon}");
        require!(norm.bias.is_none() || kind == NormKind::Layer, "a root-mean-square norm with an offset");
        for &id in norm.weight.iter().chain(&norm.bias) {
            self.vector(id, &[width, columns])?;
        }
        Ok(())
    }

    fn rotary(&self, table: u32, head_dim: u32, rotary: u32) -> Checked<()> {
        require!(
            rotary > 0 && rotary.is_multiple_of(2) && rotary <= head_dim,
            "{rotary} rotated elements in a head of {head_dim}"
        );
        let table =
            self.graph.rope_tables.get(table as usize).ok_or_else(|| TypeError(format!("no rope table {table}")))?;
        let pairs = table.frequencies.len();
        require!(pairs == (rotary / 2) as usize, "{rotary} rotated elements with a table of {pairs} pairs");
        Ok(())
    }

    fn slice(&self, input: ValueId, columns: Columns) -> Checked<Type> {
        let (count, available) = self.rows(input)?;
        let end = columns.end().filter(|_| !columns.is_empty());
        require!(end.is_some_and(|end| end <= available), "{columns:?} of {available} columns");
        let columns = columns.len().ok_or_else(|| TypeError("too many columns".to_owned()))?;
        Ok(Type::Rows { count, columns })
    }

    fn attention(&self, query: ValueId, cache: ValueId, scale: f32, soft_cap: Option<f32>) -> Checked<Type> {
        let (count, columns) = self.rows(query)?;
        let Type::Cache(layer) = self.value(cache)? else { return Err(TypeError(format!("{cache} is not a cache"))) };
        let kv = self.layer(layer)?;
        let group = self.product(kv.kv_heads, kv.head_dim)?;
        require!(group > 0 && columns.is_multiple_of(group), "{columns} query columns for layer {layer}");
        require!(
            scale.is_finite() && soft_cap.is_none_or(|cap| cap.is_finite() && cap > 0.0),
            "scale {scale}, cap {soft_cap:?}"
        );
        Ok(Type::Rows { count, columns })
    }

    /// Rows times gates, of which each is for as many neighbouring columns.
    fn gate(&self, input: Type, gate: Type) -> Checked<Type> {
        let fits = match (input, gate) {
            (Type::Rows { count, columns }, Type::Rows { count: rows, columns: gates }) => {
                count == rows && gates > 0 && columns.is_multiple_of(gates)
            }
            _ => false,
        };
        require!(fits, "gates of {gate} for {input}");
        Ok(input)
    }

    fn state(&self, state: u32) -> Checked<StateLayer> {
        self.graph.states.get(state as usize).copied().ok_or_else(|| TypeError(format!("no state {state}")))
    }

    fn causal_conv(&self, op: &CausalConv) -> Checked<Type> {
        let (count, columns) = self.rows(op.input)?;
        let StateLayer::Conv { channels, taps } = self.state(op.state)? else {
            return Err(TypeError(format!("state {} is not that of a convolution", op.state)));
        };
        require!(count == RowCount::Tokens, "{} is one row", op.input);
        for start in [Some(op.start), op.gate_in, op.gate_out].into_iter().flatten() {
            let end = start.checked_add(channels);
            require!(end.is_some_and(|end| end <= columns), "{channels} channels from column {start} of {columns}");
        }
        self.tensor(op.weight, &[u64::from(channels), 1, u64::from(taps)], None)?;
        if let Some(bias) = op.bias {
            self.vector(bias, &[channels])?;
        }
        Ok(Type::Rows { count, columns: channels })
    }

    fn gated_delta(&self, op: &GatedDelta) -> Checked<Type> {
        let StateLayer::Delta { heads, key_dim, value_dim } = self.state(op.state)? else {
            return Err(TypeError(format!("state {} is not that of a delta rule", op.state)));
        };
        let values = self.product(heads, value_dim)?;
        let keys = self.product(2, self.product(op.key_heads, key_dim)?)?;
        let all = keys.checked_add(values).ok_or_else(|| TypeError(format!("{keys} and {values} columns")))?;
        require!(op.key_heads > 0 && heads.is_multiple_of(op.key_heads), "{heads} heads share {}", op.key_heads);
        for (id, columns) in [(op.qkv, all), (op.decay, heads), (op.write, heads), (op.gate, values)] {
            require!(self.rows(id)? == (RowCount::Tokens, columns), "{id} has not {columns} columns");
        }
        for id in [op.decay_log, op.decay_bias] {
            self.vector(id, &[heads])?;
        }
        require!(op.norm.width == value_dim && op.norm.kind == NormKind::Rms, "a norm of {}", op.norm.width);
        self.norm(&op.norm, value_dim)?;
        Ok(Type::Rows { count: RowCount::Tokens, columns: values })
    }

    fn linear(&self, linear: &Linear) -> Checked<Type> {
        self.weight(&linear.weight)?;
        let (count, inner) = self.rows(linear.input)?;
        let Weight { rows, columns, .. } = linear.weight;
        require!(inner == columns, "{inner} columns times a matrix of {columns}");
        if let Some(bias) = linear.bias {
            self.vector(bias, &[rows])?;
        }
        match linear.epilogue {
            Epilogue::Gated(_) => {
                require!(rows.is_multiple_of(2), "a gated product of {rows} columns");
                Ok(Type::Rows { count, columns: rows / 2 })
            }
            Epilogue::ActivationTimes { other, start, .. } => {
                let (other_count, other_columns) = self.rows(other)?;
                let inside = start.checked_add(rows).is_some_and(|end| end <= other_columns);
                require!(other_count == count && inside, "{rows} columns from {start} of {other}");
                Ok(Type::Rows { count, columns: rows })
            }
            Epilogue::Add(residual) => {
                require!(self.rows(residual)? == (count, rows), "{residual} does not have the product's shape");
                Ok(Type::Rows { count, columns: rows })
            }
            Epilogue::SoftCap(cap) => {
                require!(cap.is_finite() && cap > 0.0, "a cap of {cap}");
                Ok(Type::Rows { count, columns: rows })
            }
            Epilogue::Scale(factor) => {
                require!(factor.is_finite() && factor != 0.0, "a factor of {factor}");
                Ok(Type::Rows { count, columns: rows })
            }
            Epilogue::None | Epilogue::Activation(_) => Ok(Type::Rows { count, columns: rows }),
        }
    }

    fn rope_append(&self, op: &RopeAppend) -> Checked<Vec<Type>> {
        let kv = self.layer(op.layer)?;
        let (count, columns) = self.rows(op.qkv)?;
        let query = self.product(op.heads, kv.head_dim)?;
        let keys = self.product(kv.kv_heads, kv.head_dim)?;
        let expected = match op.apart {
            None if op.order == QkvOrder::Gated => 2 * (u64::from(query) + u64::from(keys)),
            None => u64::from(query) + 2 * u64::from(keys),
            Some(apart) => {
                for id in apart {
                    require!(self.rows(id)? == (RowCount::Tokens, keys), "{id} does not fit layer {}", op.layer);
                }
                require!(op.order == QkvOrder::Sections, "projections apart, but heads in turn");
                u64::from(query)
            }
        };
        require!(
            count == RowCount::Tokens && u64::from(columns) == expected,
            "{columns} projected columns, not {expected}"
        );
        require!(
            op.heads > 0 && op.heads.is_multiple_of(kv.kv_heads.max(1)),
            "{} heads share {}",
            op.heads,
            kv.kv_heads
        );
        require!(
            op.order != QkvOrder::PerHead || op.heads == kv.kv_heads,
            "heads in turn need as many of q as of k and v"
        );
        if op.rotary > 0 {
            self.rotary(op.table, kv.head_dim, op.rotary)?;
            self.rotary(op.query_table, kv.head_dim, op.rotary)?;
            // A part of the head that is not rotated would not grow.
            require!(
                op.query_table == op.table || op.rotary == kv.head_dim,
                "a table of the queries' own, but {} of {} elements rotated",
                op.rotary,
                kv.head_dim
            );
        }
        for (norm, columns) in [(&op.query_norm, query), (&op.key_norm, keys)] {
            if let Some(norm) = norm {
                let width = if op.place == NormPlace::Row { columns } else { kv.head_dim };
                require!(norm.width == width, "a head norm of {}", norm.width);
                let usual =
                    op.place != NormPlace::Row || (norm.kind == NormKind::Rms && op.order == QkvOrder::Sections);
                require!(usual, "a norm over all heads that is no root mean square of neighbouring ones");
                self.norm(norm, columns)?;
            }
        }
        if let Some(norm) = &op.value_norm {
            let bare = norm.weight.is_none() && norm.bias.is_none() && norm.kind == NormKind::Rms;
            require!(bare && norm.width == kv.head_dim, "a norm of values with weights, or of {}", norm.width);
            self.norm(norm, keys)?;
        }
        Ok(vec![Type::Rows { count, columns: query }, Type::Cache(op.layer)])
    }
}
