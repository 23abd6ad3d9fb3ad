//! Each operation as its documentation in `knapsack_artifact::plan` says, one loop for each sum sign.

use crate::call::Call;
use crate::host::HostMemory;
use half::{bf16, f16};
use knapsack_artifact::plan::{
    AddNorm, Attention, Embed, Epilogue, Linear, Norm, NormPlace, NormWeights, ParameterId, QkvOrder, RopeAppend,
    RopeQuery, RowSelect, Rows, Select, Weight,
};
use knapsack_tensor::{DType, GroupFormat, Layout, NormKind, dequantize_group, unpack_group};

/// Element `index` of a stored tensor of floats.
fn element(bytes: &[u8], dtype: DType, index: usize) -> f32 {
    let at = index * dtype.size() as usize;
    match dtype {
        DType::F32 => f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")),
        DType::F16 => f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
        DType::BF16 => bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
        DType::U32 => unreachable!("a validated library has no floats of uint32"),
    }
}

/// Stores a float as element `index`.
fn set_element(bytes: &mut [u8], dtype: DType, index: usize, value: f32) {
    let at = index * dtype.size() as usize;
    match dtype {
        DType::F32 => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
        DType::F16 => bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        DType::BF16 => bytes[at..at + 2].copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        DType::U32 => unreachable!("a validated library has no floats of uint32"),
    }
}

pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Normalizes one row with weights that start at `first`.
pub(super) fn normalize(norm: &NormWeights, weight: Option<&[f32]>, bias: Option<&[f32]>, row: &mut [f32]) {
    let count = row.len() as f32;
    let mean = match norm.kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => row.iter().sum::<f32>() / count,
    };
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
    let factor = 1.0 / (variance + norm.epsilon).sqrt();
    for (i, x) in row.iter_mut().enumerate() {
        *x = (*x - mean) * factor * weight.map_or(1.0, |w| w[i]) + bias.map_or(0.0, |b| b[i]);
    }
}

/// Rotates the first `half` pairs of a head by angles of which there are as many.
fn rotate(values: &mut [f32], angles: &[f32], half: usize) {
    for i in 0..half {
        let (cos, sin) = (angles[2 * i], angles[2 * i + 1]);
        let (a, b) = (values[i], values[i + half]);
        values[i] = a * cos - b * sin;
        values[i + half] = b * cos + a * sin;
    }
}

/// The operations on a model's memory.
pub(super) struct Plain<'a> {
    pub(super) memory: &'a mut HostMemory,
}

impl Plain<'_> {
    fn arena(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.memory.workspace.bytes_mut())
    }

    /// A copy of the first `n` rows.
    pub(super) fn read(&mut self, rows: Rows, n: u32) -> Vec<f32> {
        let (start, len) = (rows.offset as usize / 4, n as usize * rows.columns as usize);
        self.arena()[start..start + len].to_vec()
    }

    pub(super) fn write(&mut self, rows: Rows, values: &[f32]) {
        let start = rows.offset as usize / 4;
        self.arena()[start..start + values.len()].copy_from_slice(values);
    }

    fn tokens(&mut self, n: u32) -> Vec<u32> {
        let start = self.memory.library.io.tokens.offset as usize;
        bytemuck::cast_slice(&self.memory.workspace.bytes()[start..start + 4 * n as usize]).to_vec()
    }

    /// A whole parameter in float32.
    pub(super) fn floats(&self, id: ParameterId) -> Vec<f32> {
        let parameter = &self.memory.library.parameters[id.0 as usize];
        let bytes = self.memory.weights.get(id);
        let count = bytes.len() / parameter.dtype.size() as usize;
        (0..count).map(|index| element(bytes, parameter.dtype, index)).collect()
    }

    /// Row `row` of a weight matrix of `rows` rows and `k` columns.
    fn weight_row(&self, weight: &Weight, rows: usize, k: usize, row: usize) -> Vec<f32> {
        match *weight {
            Weight::Dense(id) => {
                let dtype = self.memory.library.parameters[id.0 as usize].dtype;
                (0..k).map(|i| element(self.memory.weights.get(id), dtype, row * k + i)).collect()
            }
            Weight::Grouped { codes, scales, format } => self.grouped_row(
                self.memory.weights.get(codes),
                self.memory.weights.get(scales),
                &format,
                [rows, k],
                row,
            ),
        }
    }

    fn grouped_row(
        &self,
        codes: &[u8],
        scales: &[u8],
        format: &GroupFormat,
        [n, k]: [usize; 2],
        row: usize,
    ) -> Vec<f32> {
        let (groups, words) = (format.groups(k as u64) as usize, format.words(k as u64) as usize);
        let per_group = format.words_per_group() as usize;
        let place = |index: usize, row_length: usize| match format.layout {
            Layout::Nk => row * row_length + index,
            Layout::Kn => index * n + row,
        };
        let mut values = vec![0.0; groups * format.group as usize];
        for (g, values) in values.chunks_exact_mut(format.group as usize).enumerate() {
            let packed: Vec<u32> = (g * per_group..(g + 1) * per_group)
                .map(|word| 4 * place(word, words))
                .map(|at| u32::from_le_bytes(codes[at..at + 4].try_into().expect("four bytes")))
                .collect();
            let mut unpacked = vec![0; format.group as usize];
            unpack_group(format, &packed, &mut unpacked);
            dequantize_group(format, &unpacked, element(scales, format.scale, place(g, groups)), values);
        }
        values.truncate(k);
        values
    }

    /// Normalizes each row of `values`, or each head in it when the weights are shorter than a row.
    fn normalize_rows(&self, norm: &NormWeights, values: &mut [f32], columns: usize) {
        let [weight, bias] = [norm.weight, norm.bias].map(|id| id.map(|id| self.floats(id)));
        for row in values.chunks_exact_mut(columns) {
            normalize(norm, weight.as_deref(), bias.as_deref(), row);
        }
    }

    pub(super) fn embed(&mut self, op: &Embed, call: Call) {
        let mut output = Vec::new();
        for token in self.tokens(call.n) {
            let row = self.weight_row(&op.table, op.vocab as usize, op.output.columns as usize, token as usize);
            output.extend(row.iter().map(|x| x * op.scale));
        }
        self.write(op.output, &output);
    }

    pub(super) fn norm(&mut self, op: &Norm, call: Call) {
        let columns = op.input.columns as usize;
        let mut values = match op.rows {
            RowSelect::All => self.read(op.input, call.n),
            RowSelect::One => self.read(op.input, call.row + 1).split_off(call.row as usize * columns),
        };
        self.normalize_rows(&op.norm, &mut values, columns);
        self.write(op.output, &values);
    }

    pub(super) fn add_norm(&mut self, op: &AddNorm, call: Call) {
        let columns = op.residual.columns as usize;
        let mut delta = self.read(op.delta, call.n);
        if let Some(pre) = &op.pre {
            self.normalize_rows(pre, &mut delta, columns / op.groups as usize);
        }
        let scale = op.scale.map_or(1.0, |id| self.floats(id)[0]);
        let residual = self.read(op.residual, call.n);
        let mut sum: Vec<f32> = residual.iter().zip(&delta).map(|(a, b)| scale * (a + b)).collect();
        self.write(op.sum, &sum);
        if let Some((post, output)) = &op.post {
            self.normalize_rows(post, &mut sum, columns);
            self.write(*output, &sum);
        }
    }

    pub(super) fn linear(&mut self, op: &Linear, call: Call) {
        let (n, k, features) = (call.n as usize, op.input.columns as usize, op.out_features as usize);
        let input = self.read(op.input, call.n);
        let bias = op.bias.map(|id| self.floats(id));
        let mut product = vec![0.0f32; n * features];
        for feature in 0..features {
            let weight = self.weight_row(&op.weight, features, k, feature);
            let bias = bias.as_ref().map_or(0.0, |bias| bias[feature]);
            for t in 0..n {
                let row = &input[t * k..(t + 1) * k];
                product[t * features + feature] = row.iter().zip(&weight).map(|(x, w)| x * w).sum::<f32>() + bias;
            }
        }
        let output = match op.epilogue {
            Epilogue::None => product,
            Epilogue::Activation(function) => product.iter().map(|&y| function.apply(y)).collect(),
            Epilogue::SoftCap(cap) => product.iter().map(|&y| cap * (y / cap).tanh()).collect(),
            Epilogue::Scale(factor) => product.iter().map(|&y| factor * y).collect(),
            Epilogue::ActivationTimes { function, other, start } => {
                let factors = self.read(other, call.n);
                let factor =
                    |at: usize| factors[at / features * other.columns as usize + start as usize + at % features];
                product.iter().enumerate().map(|(at, &y)| function.apply(y) * factor(at)).collect()
            }
            Epilogue::Add(rows) => product.iter().zip(self.read(rows, call.n)).map(|(y, r)| y + r).collect(),
            Epilogue::Gated(function) => product
                .chunks_exact(features)
                .map(|row| row.split_at(features / 2))
                .flat_map(|(gate, up)| gate.iter().zip(up).map(|(&g, u)| function.apply(g) * u))
                .collect(),
        };
        self.write(op.output, &output);
    }

    /// Normalizes head `head`: weights of one head are shared by all.
    fn normalize_head(&self, norm: &Option<NormWeights>, head: usize, values: &mut [f32]) {
        let Some(norm) = norm else { return };
        let dim = values.len();
        let [weight, bias] = [norm.weight, norm.bias].map(|id| {
            id.map(|id| self.floats(id))
                .map(|w| if w.len() == dim { w } else { w[head * dim..(head + 1) * dim].to_vec() })
        });
        normalize(norm, weight.as_deref(), bias.as_deref(), values);
    }

    pub(super) fn rope_append(&mut self, op: &RopeAppend, call: Call) {
        let (heads, kv_heads, dim) = (op.heads as usize, op.kv_heads as usize, op.head_dim as usize);
        let cached = &self.memory.layers[op.layer as usize];
        let (layer, keys, values) = (cached.layer, cached.keys, cached.values);
        let qkv = self.read(op.qkv, call.n);
        let apart = op.apart.map(|apart| [apart.keys, apart.values].map(|rows| self.read(rows, call.n)));
        let tables = [op.query_table.unwrap_or(op.rope_table), op.rope_table];
        let [query_angles, key_angles] = tables.map(|table| self.angles(table, op.rotary, call));
        let half = op.rotary as usize / 2;
        let mut query = Vec::new();
        for t in 0..call.n as usize {
            let row = &qkv[t * op.qkv.columns as usize..][..op.qkv.columns as usize];
            let head = |section: usize, index: usize| match (&apart, op.order) {
                (Some(apart), _) if section > 0 => &apart[section - 1][(t * kv_heads + index) * dim..][..dim],
                (_, QkvOrder::Sections) => &row[([0, heads, heads + kv_heads][section] + index) * dim..][..dim],
                (_, QkvOrder::Gated) => {
                    let at = [2 * index, 2 * heads + index, 2 * heads + kv_heads + index][section];
                    &row[at * dim..][..dim]
                }
                (_, QkvOrder::PerHead) => &row[(3 * index + section) * dim..][..dim],
            };
            // All heads of a section, normalized and rotated in the order that the plan says.
            let prepared = |this: &Self, section: usize, count: usize, norm: &Option<NormWeights>, angles: &[f32]| {
                let mut all: Vec<f32> = (0..count).flat_map(|h| head(section, h).to_vec()).collect();
                if op.norm_place == NormPlace::Row
                    && let Some(norm) = norm
                {
                    this.normalize_rows(norm, &mut all, count * dim);
                }
                for (h, values) in all.chunks_exact_mut(dim).enumerate() {
                    if op.norm_place == NormPlace::Heads {
                        this.normalize_head(norm, h, values);
                    }
                    rotate(values, &angles[2 * t * half..], half);
                    if op.norm_place == NormPlace::Rotated {
                        this.normalize_head(norm, h, values);
                    }
                }
                all
            };
            query.extend(prepared(self, 0, heads, &op.query_norm, &query_angles));
            let all_keys = prepared(self, 1, kv_heads, &op.key_norm, &key_angles);
            let mut all_values: Vec<f32> = (0..kv_heads).flat_map(|h| head(2, h).to_vec()).collect();
            all_values.chunks_exact_mut(dim).for_each(|values| self.normalize_head(&op.value_norm, 0, values));
            let slot = layer.slot(call.position + t as u32) as usize;
            for (h, k) in all_keys.chunks_exact(dim).enumerate() {
                let start = (h * layer.positions as usize + slot) * dim;
                let cache = self.memory.cache.bytes_mut();
                for (i, (&k, &v)) in k.iter().zip(&all_values[h * dim..]).enumerate() {
                    set_element(&mut cache[keys..], layer.dtype, start + i, k);
                    set_element(&mut cache[values..], layer.dtype, start + i, v);
                }
            }
        }
        self.write(op.query, &query);
    }

    /// The rotary angles of the call's tokens.
    fn angles(&mut self, table: u32, rotary: u32, call: Call) -> Vec<f32> {
        if rotary == 0 {
            return Vec::new();
        }
        let rows = self.memory.library.rope_tables[table as usize].rows;
        self.read(rows, call.row + call.n).split_off(call.row as usize * rows.columns as usize)
    }

    pub(super) fn select(&mut self, op: &Select, call: Call) {
        let row = self.read(op.input, call.row + 1).split_off(call.row as usize * op.input.columns as usize);
        self.write(op.output, &row);
    }

    pub(super) fn rope_query(&mut self, op: &RopeQuery, call: Call) {
        let (heads, dim, half) = (op.heads as usize, op.head_dim as usize, op.rotary as usize / 2);
        let angles = self.angles(op.rope_table, op.rotary, call);
        let mut rows = self.read(op.input, call.n);
        for (index, values) in rows.chunks_exact_mut(dim).enumerate() {
            self.normalize_head(&op.norm, index % heads, values);
            rotate(values, &angles[index / heads * 2 * half..], half);
        }
        self.write(op.output, &rows);
    }

    pub(super) fn attention(&mut self, op: &Attention, call: Call) {
        let dim = op.head_dim as usize;
        let query = self.read(op.query, call.n);
        let gates = op.gate.map(|gate| self.read(gate.rows, call.n));
        let cached = &self.memory.layers[op.layer as usize];
        let layer = cached.layer;
        let [keys, values] = [cached.keys, cached.values].map(|start| &self.memory.cache.bytes()[start..]);
        let stored = |bytes, at| (at..at + dim).map(move |index| element(bytes, layer.dtype, index));
        let mut output = vec![0.0f32; query.len()];
        for (index, (q, out)) in query.chunks_exact(dim).zip(output.chunks_exact_mut(dim)).enumerate() {
            let (t, head) = (index / op.heads as usize, index % op.heads as usize);
            let kv_head = head / (op.heads / op.kv_heads) as usize;
            let position = call.position + call.row + t as u32;
            let (sinks, start) = layer.visible(position);
            let row = |j: u32| (kv_head * layer.positions as usize + layer.slot(j) as usize) * dim;
            let seen: Vec<usize> = (0..sinks).chain(start..=position).map(row).collect();
            let mut scores: Vec<f32> = seen
                .iter()
                .map(|&at| op.scale * q.iter().zip(stored(keys, at)).map(|(a, b)| a * b).sum::<f32>())
                .map(|score| op.soft_cap.map_or(score, |cap| cap * (score / cap).tanh()))
                .collect();
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
            let total: f32 = scores.iter().sum();
            for (&at, score) in seen.iter().zip(&scores) {
                for (o, v) in out.iter_mut().zip(stored(values, at)) {
                    *o += score / total * v;
                }
            }
            if let (Some(gate), Some(gates)) = (op.gate, &gates) {
                let first = t * gate.rows.columns as usize + (gate.start + head as u32 * gate.stride) as usize;
                for (i, o) in out.iter_mut().enumerate() {
                    *o *= sigmoid(gates[first + if gate.width > 1 { i } else { 0 }]);
                }
            }
        }
        self.write(op.output, &output);
    }
}
