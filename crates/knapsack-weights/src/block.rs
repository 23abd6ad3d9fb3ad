//! Converting one block of rows: reading, rounding or quantizing, writing.

use crate::checkpoint::Checkpoint;
use crate::element::{Bf16, Element, F16, F32, Rounding};
use crate::error::ConvertError;
use crate::layout::{AddOne, Block, Job, Place, ShardLayout};
use crate::quantize::{Quantized, Scratch, quantize_rows};
use crate::safetensors_header::SourceDType;
use crate::unusual::Unusual;
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use knapsack_tensor::{DType, GroupFormat, Layout, Quantization};

/// Buffers that a thread keeps from block to block.
#[derive(Default)]
pub(crate) struct Buffers {
    source: Vec<u8>,
    scratch: Scratch,
    codes: Vec<u32>,
    values: Vec<f32>,
    halves: Vec<u16>,
    turned: Vec<u8>,
}

/// Where a block's bytes go.
pub(crate) trait Sink {
    /// Bytes that lie together, at `offset` of a shard.
    fn write(&self, shard: usize, offset: u64, bytes: &[u8]) -> Result<(), ConvertError>;

    /// A part of each row of a tensor: `part.bytes` bytes of `rows` each.
    fn write_part(&self, place: Place, part: Part, rows: &[u8]) -> Result<(), ConvertError>;
}

/// Which part of each row of a tensor a block makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Where in the row it begins.
    pub(crate) at: usize,
    /// Its bytes.
    pub(crate) bytes: usize,
    /// Bytes of a row.
    pub(crate) row: usize,
}

/// Converts one block, and says what it found in it.
pub(crate) fn convert_block(
    checkpoint: &Checkpoint,
    layout: &ShardLayout,
    block: &Block,
    quantization: &Quantization,
    buffers: &mut Buffers,
    sink: &dyn Sink,
) -> Result<Unusual, ConvertError> {
    let job = &layout.jobs[block.job];
    let tensor = &checkpoint.tensors[block.tensor];
    let row_bytes = job.columns * tensor.dtype.bytes();
    buffers.source.resize((block.rows * row_bytes) as usize, 0);
    checkpoint.read(tensor, block.from * row_bytes, &mut buffers.source)?;
    let unusual = Unusual::count(&tensor.dtype, quantization.model_dtype, &buffers.source);
    match job.format {
        Some(format) => {
            quantize(&tensor.dtype, quantization.model_dtype, &format, job, block, buffers);
            write_quantized(&format, job, block, buffers, sink)?;
        }
        None => {
            let start = job.places[0].offset + block.to * job.columns * job.stored.dtype.size();
            if plain_is_copied(&tensor.dtype, job) {
                sink.write(job.places[0].shard, start, &buffers.source)?;
            } else {
                plain(&tensor.dtype, job, buffers);
                sink.write(job.places[0].shard, start, bytemuck::cast_slice(&buffers.halves))?;
            }
        }
    }
    Ok(unusual)
}

/// Whether a plain tensor has the stored type already.
fn plain_is_copied(source: &SourceDType, job: &Job) -> bool {
    let same = matches!((source, job.stored.dtype), (SourceDType::F16, DType::F16) | (SourceDType::BF16, DType::BF16));
    same && job.add_one.is_none()
}

/// Rounds a plain tensor to its stored type, which has 16 bits: float32 models are stored as bfloat16.
fn plain(source: &SourceDType, job: &Job, buffers: &mut Buffers) {
    let Buffers { source: bytes, values, halves, .. } = buffers;
    values.resize(bytes.len() / source.bytes() as usize, 0.0);
    match source {
        SourceDType::F32 => exact::<F32>(bytes, values, job.add_one),
        SourceDType::F16 => exact::<F16>(bytes, values, job.add_one),
        _ => exact::<Bf16>(bytes, values, job.add_one),
    }
    round_to_halves(job.stored.dtype, values, halves);
}

/// The elements as they are, or with one added.
fn exact<S: Element + Rounding>(bytes: &[u8], values: &mut [f32], add_one: Option<AddOne>) {
    S::decode::<F32>(bytes, values);
    match add_one {
        Some(AddOne::Rounded) => values.iter_mut().for_each(|value| *value = S::round(*value + 1.0)),
        Some(AddOne::Exact) => values.iter_mut().for_each(|value| *value += 1.0),
        None => {}
    }
}

/// The bits of each value in a type of 16 bits, little endian.
fn round_to_halves(dtype: DType, values: &[f32], halves: &mut Vec<u16>) {
    halves.resize(values.len(), 0);
    match dtype {
        DType::F16 => bytemuck::cast_slice_mut::<u16, half::f16>(halves).convert_from_f32_slice(values),
        _ => bytemuck::cast_slice_mut::<u16, half::bf16>(halves).convert_from_f32_slice(values),
    }
    if cfg!(target_endian = "big") {
        halves.iter_mut().for_each(|half| *half = half.to_le());
    }
}

/// Quantizes the block's rows to `codes` and `values`, row-major.
fn quantize(source: &SourceDType, model: DType, format: &GroupFormat, job: &Job, block: &Block, buffers: &mut Buffers) {
    let Buffers { source: bytes, scratch, codes, values, .. } = buffers;
    let (rows, k) = (block.rows as usize, job.columns as usize);
    codes.resize(rows * format.words(job.columns) as usize, 0);
    values.resize(rows * format.groups(job.columns) as usize, 0.0);
    let mut out = Quantized { codes, scales: values };
    match (source, model) {
        (SourceDType::F32, DType::F16) => quantize_rows::<F32, F16>(format, k, bytes, scratch, &mut out),
        (SourceDType::F32, DType::BF16) => quantize_rows::<F32, Bf16>(format, k, bytes, scratch, &mut out),
        (SourceDType::F32, _) => quantize_rows::<F32, F32>(format, k, bytes, scratch, &mut out),
        (SourceDType::F16, DType::F16) => quantize_rows::<F16, F16>(format, k, bytes, scratch, &mut out),
        (SourceDType::F16, DType::BF16) => quantize_rows::<F16, Bf16>(format, k, bytes, scratch, &mut out),
        (SourceDType::F16, _) => quantize_rows::<F16, F32>(format, k, bytes, scratch, &mut out),
        (_, DType::F16) => quantize_rows::<Bf16, F16>(format, k, bytes, scratch, &mut out),
        (_, DType::BF16) => quantize_rows::<Bf16, Bf16>(format, k, bytes, scratch, &mut out),
        (_, _) => quantize_rows::<Bf16, F32>(format, k, bytes, scratch, &mut out),
    }
}

fn write_quantized(
    format: &GroupFormat,
    job: &Job,
    block: &Block,
    buffers: &mut Buffers,
    sink: &dyn Sink,
) -> Result<(), ConvertError> {
    let (words, groups) = (format.words(job.columns) as usize, format.groups(job.columns) as usize);
    let Buffers { codes, values, halves, turned, .. } = buffers;
    if cfg!(target_endian = "big") {
        codes.iter_mut().for_each(|word| *word = word.to_le());
    }
    round_to_halves(format.scale, values, halves);
    let [code_place, scale_place] = [job.places[0], job.places[1]];
    match format.layout {
        Layout::Nk => {
            let at = |place: Place, row_bytes: usize| place.offset + block.to * row_bytes as u64;
            sink.write(code_place.shard, at(code_place, 4 * words), bytemuck::cast_slice(codes))?;
            sink.write(scale_place.shard, at(scale_place, 2 * groups), bytemuck::cast_slice(halves))
        }
        Layout::Kn => {
            write_columns(job, block, code_place, codes, words, turned, sink)?;
            write_columns(job, block, scale_place, halves, groups, turned, sink)
        }
    }
}

/// Writes a block `(rows, columns)` as `(columns, rows)`: each of its rows is a part of a row of the tensor.
fn write_columns<T: Pod + Default>(
    job: &Job,
    block: &Block,
    place: Place,
    from: &[T],
    columns: usize,
    turned: &mut Vec<u8>,
    sink: &dyn Sink,
) -> Result<(), ConvertError> {
    let bytes = |rows: u64| rows as usize * size_of::<T>();
    turned.resize(size_of_val(from), 0);
    transpose(from, columns, turned);
    match block.rows == job.rows {
        true => sink.write(place.shard, place.offset, turned),
        false => {
            let part = Part { at: bytes(block.to), bytes: bytes(block.rows), row: bytes(job.rows) };
            sink.write_part(place, part, turned)
        }
    }
}

/// Rows and columns that are turned at once.
const TILE: usize = 16;

/// `(rows, columns)` to `(columns, rows)`, in tiles that stay in the first-level cache.
fn transpose<T: Pod + Default>(from: &[T], columns: usize, to: &mut [u8]) {
    let (rows, size) = (from.len() / columns, size_of::<T>());
    let mut tile = [[T::default(); TILE]; TILE];
    for first_column in (0..columns).step_by(TILE) {
        let width = TILE.min(columns - first_column);
        for first_row in (0..rows).step_by(TILE) {
            let height = TILE.min(rows - first_row);
            for (row, tile) in tile[..height].iter_mut().enumerate() {
                let from = &from[(first_row + row) * columns + first_column..];
                match from.first_chunk() {
                    Some(whole) if width == TILE => *tile = *whole,
                    _ => tile[..width].copy_from_slice(&from[..width]),
                }
            }
            let starts = (first_column..first_column + width).map(|column| (column * rows + first_row) * size);
            for (column, start) in starts.enumerate() {
                let turned: [T; TILE] = std::array::from_fn(|row| tile[row][column]);
                to[start..start + height * size].copy_from_slice(&bytemuck::bytes_of(&turned)[..height * size]);
            }
        }
    }
}
