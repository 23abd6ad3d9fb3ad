//! What every device checks and computes before a call: the arguments against the library, and the rotary rows.

use crate::DeviceError;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::RopeTable;

/// The arguments of a checked call, as kernels take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Tokens, at least 1 and at most the chunk.
    pub n: u32,
    /// Absolute position of the first of them; `position + n` fits `u32` and the context window.
    pub position: u32,
    /// Row that the head reads of what the last call left, and 0 otherwise: the first token of a launch is at position
    /// `position + row`, its rotary angles are in row `row`.
    pub row: u32,
}

/// Checks the arguments of [`crate::LoadedModel::forward`].
///
/// # Errors
/// [`DeviceError::InvalidCall`] with the offending values.
pub(crate) fn check_forward(library: &ModelLibrary, tokens: &[u32], position: u32) -> Result<Call, DeviceError> {
    let model = &library.model;
    let chunk = model.prefill_chunk_size;
    if tokens.is_empty() || tokens.len() > chunk as usize {
        return Err(DeviceError::InvalidCall(format!("{} tokens, 1 to {chunk} are possible", tokens.len())));
    }
    check_tokens(library, tokens)?;
    let n = tokens.len() as u32;
    let last = model.context_window_size.unwrap_or(u32::MAX);
    if position.checked_add(n).is_none_or(|end| end > last) {
        return Err(DeviceError::InvalidCall(format!("{n} tokens at position {position} pass the context of {last}")));
    }
    Ok(Call { n, position, row: 0 })
}

/// Whether every token is in the vocabulary.
pub(crate) fn check_tokens(library: &ModelLibrary, tokens: &[u32]) -> Result<(), DeviceError> {
    let vocab = library.model.vocab_size;
    match tokens.iter().find(|&&token| token >= vocab) {
        Some(token) => Err(DeviceError::InvalidCall(format!("token {token} outside the vocabulary of {vocab}"))),
        None => Ok(()),
    }
}

/// Checks the arguments of [`crate::LoadedModel::logits`]; `rows` is what the last successful forward left, `position` where it began.
///
/// # Errors
/// [`DeviceError::InvalidCall`] with the offending values.
pub(crate) fn check_logits(
    library: &ModelLibrary,
    rows: u32,
    position: u32,
    row: u32,
    output: &[f32],
) -> Result<Call, DeviceError> {
    let call = check_row(rows, position, row)?;
    let vocab = library.model.vocab_size as usize;
    if output.len() != vocab {
        return Err(DeviceError::InvalidCall(format!("room for {} logits, there are {vocab}", output.len())));
    }
    Ok(call)
}

/// Checks a row of what the last successful forward left.
pub(crate) fn check_row(rows: u32, position: u32, row: u32) -> Result<Call, DeviceError> {
    match row < rows {
        true => Ok(Call { n: 1, position, row }),
        false => Err(DeviceError::InvalidCall(format!("row {row}, the last call left {rows}"))),
    }
}

/// Writes a table's `(cos, sin)` pairs for the call's tokens, row by row. The angle is the float32 product of position and
/// frequency, as in the models' own code; its cosine and sine are then taken in double precision.
///
/// # Panics
/// When `rows` is not `n * 2 * frequencies` long.
pub(crate) fn write_rope_rows(table: &RopeTable, call: Call, rows: &mut [f32]) {
    let columns = 2 * table.frequencies.len();
    assert_eq!(rows.len(), call.n as usize * columns, "rows of a rope table");
    for (t, row) in rows.chunks_exact_mut(columns).enumerate() {
        let position = (call.position + t as u32) as f32;
        let magnitude = table.magnitude * table.growth.map_or(1.0, |growth| growth.at(call.position + t as u32));
        for (pair, frequency) in row.as_chunks_mut::<2>().0.iter_mut().zip(&table.frequencies) {
            let (sin, cos) = f64::from(position * frequency).sin_cos();
            *pair = [cos as f32 * magnitude, sin as f32 * magnitude];
        }
    }
}
