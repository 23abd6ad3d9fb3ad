//! The reference interpreter: a graph executed in float32, one operation after the other, as simply as it can be written.
//!
//! It is the oracle for passes (a fused graph gives what the unfused one gives) and for devices. Keys and values are kept for
//! every position and never overwritten; windows and sinks only decide what attention looks at. [`Op::SelectRow`] is read as
//! the identity, so that a run gives the logits of all its tokens.

mod attention;
mod recurrent;
mod rows;
mod weights;

pub use weights::TensorData;

use crate::{Epilogue, Graph, Linear, Norm, NormPlace, Op, ParameterId, RopeAppend, ValueId, VerifyError, verify};
use attention::History;
use rows::Matrix;
use std::collections::HashMap;
use std::rc::Rc;
use weights::Parameters;

/// Why a graph cannot be executed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum InterpretError {
    /// The graph means nothing.
    #[error("the graph is invalid")]
    Graph(#[from] VerifyError),
    /// Too few or too many tensors.
    #[error("{found} tensors for {expected} parameters")]
    Tensors {
        /// How many were given.
        found: usize,
        /// How many the graph declares.
        expected: usize,
    },
    /// A tensor that is not what the graph declares.
    #[error("tensor of `{name}`: {found} elements, {expected} expected, or of the wrong kind")]
    Tensor {
        name: String,
        /// Elements given.
        found: usize,
        /// Elements declared.
        expected: u64,
    },
    /// A token beyond an embedding table.
    #[error("token {token} of {vocab}")]
    Token {
        token: u32,
        /// Rows of the table.
        vocab: u32,
    },
}

/// A value during a run.
#[derive(Clone)]
enum Value {
    Tokens,
    Rows(Rc<Matrix>),
    Weight(Rc<Matrix>),
    Cache(u32),
}

/// A graph with its weights and the history of one conversation.
pub struct Interpreter<'g> {
    graph: &'g Graph,
    weights: Parameters<'g>,
    history: Vec<History>,
    /// What the states of [`Graph::states`] hold.
    states: Vec<Vec<f32>>,
    position: u32,
}

impl<'g> Interpreter<'g> {
    /// An interpreter at position 0. `tensors` are those of the graph's parameters, in order: codes as `u32`, everything else
    /// widened to `f32`.
    ///
    /// # Errors
    /// When the graph is invalid or the tensors are not its parameters'.
    pub fn new(graph: &'g Graph, tensors: &'g [TensorData]) -> Result<Self, InterpretError> {
        verify(graph)?;
        let weights = Parameters::new(graph, tensors)?;
        let history = graph.kv_layers.iter().map(|_| History::default()).collect();
        let states = graph.states.iter().map(|state| vec![0.0; recurrent::elements(state)]).collect();
        Ok(Interpreter { graph, weights, history, states, position: 0 })
    }

    /// Appends tokens to the conversation and returns the logits of each of them, `tokens x vocab`.
    ///
    /// # Errors
    /// When a token is beyond the vocabulary.
    pub fn run(&mut self, tokens: &[u32]) -> Result<Vec<f32>, InterpretError> {
        let mut values: HashMap<ValueId, Value> = HashMap::new();
        for node in &self.graph.nodes {
            let defined = self.execute(&node.op, tokens, &values)?;
            values.extend(node.results.iter().map(|(id, _)| *id).zip(defined));
        }
        self.position += tokens.len() as u32;
        match values.remove(&self.graph.output) {
            Some(Value::Rows(rows)) => Ok(rows.data.clone()),
            // The verifier has seen to it that the output is rows.
            _ => Ok(vec![]),
        }
    }

    fn execute(
        &mut self,
        op: &Op,
        tokens: &[u32],
        values: &HashMap<ValueId, Value>,
    ) -> Result<Vec<Value>, InterpretError> {
        let rows = |id: &ValueId| match &values[id] {
            Value::Rows(rows) | Value::Weight(rows) => Rc::clone(rows),
            Value::Tokens | Value::Cache(_) => Rc::new(Matrix::default()),
        };
        let one = |matrix: Matrix| Ok(vec![Value::Rows(Rc::new(matrix))]);
        match op {
            Op::Tokens => Ok(vec![Value::Tokens]),
            Op::Dequantize(weight) => Ok(vec![Value::Weight(self.weights.matrix(weight))]),
            Op::Embed { table, .. } => one(rows(table).gather(tokens)?),
            Op::Matmul { input, weight } => one(rows(input).times_transposed(&rows(weight))),
            Op::Bias { input, bias } => one(self.biased(&rows(input), Some(*bias))),
            Op::Add { a, b } => one(rows(a).zip(&rows(b), |a, b| a + b)),
            Op::Mul { a, b } => one(rows(a).zip(&rows(b), |a, b| a * b)),
            Op::ScaleBy { input, factor } => {
                let factor = self.vector(*factor)[0];
                one(rows(input).map(|x| x * factor))
            }
            Op::RopeQuery { input, head_dim, rotary, table, norm } => {
                let normed =
                    norm.as_ref().map_or_else(|| (*rows(input)).clone(), |norm| self.normed(&rows(input), norm));
                one(if *rotary > 0 { self.rotated(&normed, *table, *head_dim, *rotary) } else { normed })
            }
            Op::Scale { input, factor } => one(rows(input).map(|x| x * factor)),
            Op::SoftCap { input, cap } => one(rows(input).map(|x| cap * (x / cap).tanh())),
            Op::Activation { input, function } => one(rows(input).map(|x| function.apply(x))),
            Op::Slice { input, columns } => one(rows(input).slice(columns)),
            Op::Norm { input, norm } | Op::NormSelected { input, norm } => one(self.normed(&rows(input), norm)),
            Op::Rope { input, table, head_dim, rotary } => one(self.rotated(&rows(input), *table, *head_dim, *rotary)),
            Op::Append { key, value, layer } => {
                self.history[*layer as usize].append(&rows(key), &rows(value));
                Ok(vec![Value::Cache(*layer)])
            }
            Op::Attention { query, cache, scale, soft_cap, gate } => {
                let Value::Cache(layer) = values[cache] else { return one(Matrix::default()) };
                let kv = &self.graph.kv_layers[layer as usize];
                let history = &self.history[layer as usize];
                let attended = history.attend(&rows(query), kv, self.position, *scale, *soft_cap);
                one(match gate {
                    None => attended,
                    Some(gate) => attended.gated(&rows(&gate.rows).slice(&gate.columns)),
                })
            }
            Op::Gate { input, gate } => one(rows(input).gated(&rows(gate))),
            Op::CausalConv(op) => one(self.causal_conv(op, &rows(&op.input))),
            Op::GatedDelta(op) => {
                let inputs = [op.qkv, op.decay, op.write, op.gate].map(|id| rows(&id));
                one(self.gated_delta(op, &inputs))
            }
            Op::SelectRow { input } => Ok(vec![Value::Rows(rows(input))]),
            Op::EmbedRows { table, scale, .. } => one(self.weights.matrix(table).gather(tokens)?.map(|x| x * scale)),
            Op::Linear(linear) => one(self.linear(linear, &rows)),
            Op::AddNorm { residual, delta, pre, scale, post } => {
                let delta = rows(delta);
                let delta = pre.as_ref().map_or(delta.clone(), |norm| Rc::new(self.normed(&delta, norm)));
                let scale = scale.map_or(1.0, |scale| self.vector(scale)[0]);
                let sum = rows(residual).zip(&delta, |a, b| scale * (a + b));
                let normed = post.as_ref().map(|norm| Value::Rows(Rc::new(self.normed(&sum, norm))));
                Ok([Value::Rows(Rc::new(sum))].into_iter().chain(normed).collect())
            }
            Op::RopeAppend(op) => {
                let apart = op.apart.map(|[keys, values]| (rows(&keys), rows(&values)));
                Ok(self.rope_append(op, &rows(&op.qkv), apart))
            }
        }
    }

    fn vector(&self, id: ParameterId) -> &'g [f32] {
        self.weights.vector(id)
    }

    fn normed(&self, input: &Matrix, norm: &Norm) -> Matrix {
        let (weight, bias) = (norm.weight.map(|id| self.vector(id)), norm.bias.map(|id| self.vector(id)));
        input.normed(norm.kind, norm.epsilon, norm.width as usize, weight, bias)
    }

    fn biased(&self, input: &Matrix, bias: Option<ParameterId>) -> Matrix {
        match bias {
            None => input.clone(),
            Some(bias) => input.plus_row(self.vector(bias)),
        }
    }

    fn rotated(&self, input: &Matrix, table: u32, head_dim: u32, rotary: u32) -> Matrix {
        input.rotated(&self.graph.rope_tables[table as usize], self.position, head_dim as usize, rotary as usize)
    }

    fn linear(&mut self, linear: &Linear, rows: &impl Fn(&ValueId) -> Rc<Matrix>) -> Matrix {
        let product = rows(&linear.input).times_transposed(&self.weights.matrix(&linear.weight));
        let y = self.biased(&product, linear.bias);
        match &linear.epilogue {
            Epilogue::None => y,
            Epilogue::Activation(function) => y.map(|x| function.apply(x)),
            Epilogue::Gated(function) => {
                let half = y.columns as u32 / 2;
                let (gate, up) =
                    (y.slice(&crate::Columns::range(0, half)), y.slice(&crate::Columns::range(half, half)));
                gate.zip(&up, |gate, up| function.apply(gate) * up)
            }
            Epilogue::ActivationTimes { function, other, start } => {
                let other = rows(other).slice(&crate::Columns::range(*start, y.columns as u32));
                y.zip(&other, |y, other| function.apply(y) * other)
            }
            Epilogue::Add(residual) => rows(residual).zip(&y, |a, b| a + b),
            Epilogue::SoftCap(cap) => y.map(|x| cap * (x / cap).tanh()),
            Epilogue::Scale(factor) => y.map(|x| factor * x),
        }
    }

    fn rope_append(&mut self, op: &RopeAppend, qkv: &Matrix, apart: Option<(Rc<Matrix>, Rc<Matrix>)>) -> Vec<Value> {
        let kv = self.graph.kv_layers[op.layer as usize];
        let (q, k, v) = match apart {
            Some((k, v)) => (qkv.clone(), (*k).clone(), (*v).clone()),
            None => {
                let [q, k, v] = attention::columns(op, &kv);
                (qkv.slice(&q), qkv.slice(&k), qkv.slice(&v))
            }
        };
        let place = |this: &Self, rows: Matrix, norm: &Option<Norm>, table: u32| {
            let normed = |rows: Matrix| norm.as_ref().map_or(rows.clone(), |norm| this.normed(&rows, norm));
            let rotated = |rows: Matrix| match op.rotary {
                0 => rows,
                rotary => this.rotated(&rows, table, kv.head_dim, rotary),
            };
            if op.place == NormPlace::Rotated { normed(rotated(rows)) } else { rotated(normed(rows)) }
        };
        let (query, key) = (place(self, q, &op.query_norm, op.query_table), place(self, k, &op.key_norm, op.table));
        let v = op.value_norm.as_ref().map_or(v.clone(), |norm| self.normed(&v, norm));
        self.history[op.layer as usize].append(&key, &v);
        vec![Value::Rows(Rc::new(query)), Value::Cache(op.layer)]
    }
}

#[cfg(test)]
mod tests;
