//! Parameter values.

use super::InterpretError;
use super::rows::Matrix;
use crate::{Graph, ParameterId, Storage, Weight};
use knapsack_tensor::{DType, GroupFormat, Layout, dequantize_group, unpack_group};
use std::collections::HashMap;
use std::rc::Rc;

/// The elements of one tensor, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// Floating point, widened.
    Float(Vec<f32>),
    /// Packed codes.
    Codes(Vec<u32>),
}

impl TensorData {
    fn len(&self) -> usize {
        match self {
            TensorData::Float(data) => data.len(),
            TensorData::Codes(data) => data.len(),
        }
    }
}

/// Parameter values by number, with matrices kept as floats once they were needed.
pub(super) struct Parameters<'g> {
    tensors: &'g [TensorData],
    matrices: HashMap<Weight, Rc<Matrix>>,
}

impl<'g> Parameters<'g> {
    pub(super) fn new(graph: &Graph, tensors: &'g [TensorData]) -> Result<Self, InterpretError> {
        if tensors.len() != graph.parameters.len() {
            return Err(InterpretError::Tensors { found: tensors.len(), expected: graph.parameters.len() });
        }
        for (parameter, tensor) in graph.parameters.iter().zip(tensors) {
            let expected = parameter.shape.iter().product::<u64>();
            let kind = matches!(tensor, TensorData::Codes(_)) == (parameter.dtype == DType::U32);
            if !kind || tensor.len() as u64 != expected {
                let name = parameter.name.clone();
                return Err(InterpretError::Tensor { name, found: tensor.len(), expected });
            }
        }
        Ok(Parameters { tensors, matrices: HashMap::new() })
    }

    pub(super) fn vector(&self, id: ParameterId) -> &'g [f32] {
        match &self.tensors[id.0 as usize] {
            TensorData::Float(data) => data,
            TensorData::Codes(_) => &[],
        }
    }

    fn codes(&self, id: ParameterId) -> &'g [u32] {
        match &self.tensors[id.0 as usize] {
            TensorData::Codes(data) => data,
            TensorData::Float(_) => &[],
        }
    }

    /// A weight as floats.
    pub(super) fn matrix(&mut self, weight: &Weight) -> Rc<Matrix> {
        if let Some(matrix) = self.matrices.get(weight) {
            return Rc::clone(matrix);
        }
        let (n, k) = (weight.rows as usize, weight.columns as usize);
        let data = match weight.storage {
            Storage::Dense(id) => self.vector(id).to_vec(),
            Storage::Grouped { codes, scales, format } => {
                dequantized(&format, n, k, self.codes(codes), self.vector(scales))
            }
        };
        let matrix = Rc::new(Matrix { columns: k, data });
        self.matrices.insert(*weight, Rc::clone(&matrix));
        matrix
    }
}

/// All elements of an `(n, k)` matrix, with exact products.
fn dequantized(format: &GroupFormat, n: usize, k: usize, codes: &[u32], scales: &[f32]) -> Vec<f32> {
    let (groups, words) = (format.groups(k as u64) as usize, format.words_per_group() as usize);
    let at = |row: usize, column: usize, columns: usize| match format.layout {
        Layout::Nk => row * columns + column,
        Layout::Kn => column * n + row,
    };
    let mut data = Vec::with_capacity(n * k);
    let mut buffer = vec![0u8; format.group as usize];
    let mut values = vec![0f32; format.group as usize];
    for row in 0..n {
        for group in 0..groups {
            let packed: Vec<u32> = (0..words).map(|w| codes[at(row, group * words + w, groups * words)]).collect();
            unpack_group(format, &packed, &mut buffer);
            dequantize_group(format, &buffer, scales[at(row, group, groups)], &mut values);
            data.extend_from_slice(&values[..(k - group * format.group as usize).min(values.len())]);
        }
    }
    data
}
