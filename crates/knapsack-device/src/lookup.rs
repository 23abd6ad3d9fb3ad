//! Rows of tables of which a device holds no copy.

use crate::Weights;
use half::{bf16, f16};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::{Lookup, ParameterId, Weight};
use knapsack_tensor::{DType, GroupFormat, dequantize_group, unpack_group};

/// Element `index` of a stored tensor of floats.
fn element(bytes: &[u8], dtype: DType, index: usize) -> f32 {
    let at = index * dtype.size() as usize;
    match dtype {
        DType::F16 => f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
        DType::BF16 => bf16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
        DType::F32 | DType::U32 => f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")),
    }
}

/// Writes the rows of `tokens`, which are below the table's rows.
///
/// # Panics
/// When `rows` is not as long as that.
pub(crate) fn write_rows(library: &ModelLibrary, weights: &Weights, lookup: &Lookup, tokens: &[u32], rows: &mut [f32]) {
    let columns = lookup.rows.columns as usize;
    assert_eq!(rows.len(), tokens.len() * columns, "rows of a table");
    let dtype = |id: ParameterId| library.parameters[id.0 as usize].dtype;
    for (&token, row) in tokens.iter().zip(rows.chunks_exact_mut(columns)) {
        let token = token as usize;
        match lookup.table {
            Weight::Dense(id) => {
                let (bytes, dtype) = (weights.get(id), dtype(id));
                row.iter_mut().enumerate().for_each(|(i, x)| *x = element(bytes, dtype, token * columns + i));
            }
            Weight::Grouped { codes, scales, format } => {
                grouped(weights.get(codes), weights.get(scales), &format, token, row);
            }
        }
        row.iter_mut().for_each(|x| *x *= lookup.scale);
    }
}

/// Row `token` of a grouped table, row-major.
fn grouped(codes: &[u8], scales: &[u8], format: &GroupFormat, token: usize, row: &mut [f32]) {
    let columns = row.len() as u64;
    let (groups, words) = (format.groups(columns) as usize, format.words_per_group() as usize);
    let first = token * format.words(columns) as usize;
    let (mut packed, mut unpacked) = (vec![0u32; words], vec![0u8; format.group as usize]);
    let mut values = vec![0f32; format.group as usize];
    for (group, row) in row.chunks_mut(format.group as usize).enumerate() {
        let bytes = &codes[4 * (first + group * words)..][..4 * words];
        for (word, bytes) in packed.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        unpack_group(format, &packed, &mut unpacked);
        dequantize_group(format, &unpacked, element(scales, format.scale, token * groups + group), &mut values);
        row.copy_from_slice(&values[..row.len()]);
    }
}
